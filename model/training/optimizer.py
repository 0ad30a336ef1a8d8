"""Optimisers, the learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import ConfigurationError
from model.training_config import OptimizerConfig

# Coefficients of the quintic Newton-Schulz iteration (Jordan et al. 2024, "Muon: an optimizer for hidden layers in
# neural networks"): they drive all singular values to about one in five steps.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


def learning_rate_factor(config: OptimizerConfig, step: int) -> float:
    """Return the learning rate of ``step`` (from 0) as a fraction of the peak.

    Linear warm-up that reaches the peak in its last step, then inverse square root (Vaswani et al. 2017, section 5.3),
    or cosine (Loshchilov and Hutter 2017, equation 5) or linear decay down to ``final_fraction`` at ``total_steps``.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "inverse_sqrt":
        return math.sqrt(max(config.warmup_steps, 1) / (step + 1))
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.total_steps - config.warmup_steps))
    left = (1 + math.cos(math.pi * progress)) / 2 if config.schedule == "cosine" else 1 - progress
    return config.final_fraction + (1 - config.final_fraction) * left


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each matrix is orthogonalised (Jordan et al. 2024).

    torch's own implementation iterates in bfloat16, which CPUs without bfloat16 units do twenty times slower than
    float32; this one iterates in float32 on CPUs and in bfloat16 on CUDA.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient: Nesterov momentum, orthogonalised, scaled up for tall matrices."""
        assert closure is None, "closures are not needed here"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            for parameters in _together([parameter for parameter in group["params"] if parameter.grad is not None]):
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                momenta = [self.state[parameter]["momentum"] for parameter in parameters]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                mixed = torch._foreach_lerp(gradients, momenta, group["momentum"])
                if len(parameters) > 1:
                    directions = list(orthogonalize(torch.stack(mixed)).unbind())
                else:
                    directions = [orthogonalize(mixed[0])]
                rows, columns = parameters[0].shape
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, directions, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def _together(parameters: list[Tensor]) -> list[list[Tensor]]:
    """Return the matrices in the groups that are orthogonalised at once.

    On CUDA that is all of one shape: the products of one are too small to fill a GPU, and starting thousands of them
    would take as long as they do. On a CPU each is alone.
    """
    groups: dict[object, list[Tensor]] = {}
    for number, parameter in enumerate(parameters):
        groups.setdefault((parameter.shape, parameter.dtype) if parameter.is_cuda else number, []).append(parameter)
    return list(groups.values())


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return about ``U V^T`` for a matrix with the singular value decomposition ``U S V^T``; (R, C), or many (N, R, C).

    The iteration is odd in the matrix, so U and V stay as they are; singular values that are not tiny beside the norm
    end between 0.6 and 1.3, which serves training as well as exactly one (Jordan et al. 2024).
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    multiply = torch.addmm if x.dim() == 2 else torch.baddbmm
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = multiply(x, multiply(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrix.dtype)


class Optimizer:
    """The configured optimiser with clipping and schedule behind one step.

    Muon takes the matrices of the layers; AdamW (Loshchilov and Hutter 2019) takes embeddings, output, norms and
    biases, and everything where Muon is not asked for. Weight decay applies to matrices only.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        self.steps_done = 0
        self._parameters = list(model.parameters())
        hidden, matrices, others = _groups(model)
        if config.name == "adamw":
            hidden, matrices = [], hidden + matrices
        adam_groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (
                torch.optim.AdamW(
                    [group for group in adam_groups if group["params"]],
                    lr=config.learning_rate,
                    betas=(config.beta1, config.beta2),
                    eps=1e-9,
                    fused=True,
                ),
                config.learning_rate,
            )
        ]
        if hidden:
            muon = Muon(hidden, lr=config.muon_learning_rate, weight_decay=config.weight_decay)
            self._optimizers.append((muon, config.muon_learning_rate))

    @property
    def learning_rate(self) -> float:
        """AdamW's learning rate in the coming step."""
        return self.config.learning_rate * learning_rate_factor(self.config, self.steps_done)

    def step(self) -> Tensor:
        """Clip the gradients, update the weights, forget the gradients; return the gradient norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self.config.clip_norm, foreach=True)
        factor = learning_rate_factor(self.config, self.steps_done)
        for optimizer, peak in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs."""
        return {"steps_done": self.steps_done, "optimizers": [o.state_dict() for o, _ in self._optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of an earlier run with the same network.

        Schedule, decay and the like are this configuration's, so a recipe may change them on the way.

        Raises:
            ConfigurationError: the earlier run had another optimiser.
        """
        if len(state["optimizers"]) != len(self._optimizers):
            raise ConfigurationError("optimizer.name", "must stay as the run began", self.config.name)
        self.steps_done = int(state["steps_done"])
        for (optimizer, _), values in zip(self._optimizers, state["optimizers"], strict=True):
            options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(values)
            for group, option in zip(optimizer.param_groups, options, strict=True):
                group.update(option)


def _groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Split parameters into the layers' matrices, other matrices (embeddings, output, positions), and the rest."""
    hidden, matrices, others = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            others.append(parameter)
        elif ".layers." in name:
            hidden.append(parameter)
        else:
            matrices.append(parameter)
    return hidden, matrices, others


class WeightAverage:
    """Exponential moving average of the weights, which generalises better than the last step's (Polyak averaging).

    After n updates the decay of the next one is ``min(decay, (1 + n) / (10 + n))``: it rises with the steps, so that
    the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's current weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        parameters: list[Tensor] = [parameter for _, parameter in model.named_parameters()]
        torch._foreach_lerp_(list(self.weights.values()), parameters, 1 - decay)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], num_updates: int) -> None:
        """Go on with the average of an earlier run."""
        self.num_updates = num_updates
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
