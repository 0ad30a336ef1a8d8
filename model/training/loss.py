"""Label-smoothed cross-entropy, with the output projection inside so that the logits never exist all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 8 * 2**20
"""Logits of one chunk: small enough for the last-level cache of a CPU, where point-wise work is much faster."""
CUDA_CHUNK_BYTES = 512 * 2**20
"""On a GPU the chunk only bounds memory."""


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Return the summed loss of logits (N, V) against target ids (N,); the plain reference.

    With smoothing e the target distribution is ``1 - e`` on the target plus ``e / V`` on every token (Szegedy et al.
    2016, section 7).
    """
    return F.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)


Pointwise = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]
"""What :func:`loss_and_gradient` computes, perhaps compiled."""


def loss_and_gradient(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return summed loss, summed negative log-likelihood, and the loss' gradient for logits (n, V) and targets (n,).

    Written to be compiled: fused, it reads the logits twice and writes the gradient once, in the logits' own format,
    where the steps one by one move sixty bytes a logit through the memory of a GPU.
    """
    precise = logits.float()
    log_total = precise.logsumexp(dim=-1)  # (n,)
    nll = log_total - precise.gather(1, targets[:, None]).squeeze(1)
    loss = (1 - smoothing) * nll + smoothing * (log_total - precise.mean(dim=-1))
    gradient = (precise - log_total[:, None]).exp() - smoothing / logits.shape[1]
    is_target = targets[:, None] == torch.arange(logits.shape[1], device=logits.device)
    gradient = torch.where(is_target, gradient - (1 - smoothing), gradient)
    return loss.sum(), nll.sum(), gradient.to(logits.dtype)


def linear_cross_entropy(
    states: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    bias: Tensor | None = None,
    pointwise: Pointwise | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of ``states @ weight.T + bias`` against ``targets``, computed chunk by chunk.

    The gradients are computed in the forward pass, while each chunk of logits is still in the cache; the backward pass
    only scales them. Matrix products are in the format of the states, or under autocast in autocast's; everything
    between them is in float32 (float64 for float64 states).

    Args:
        states: (N, D) decoder states.
        weight: (V, D) output projection.
        targets: (N,) token ids.
        smoothing: probability mass spread over the vocabulary.
        bias: (V,) or None.
        pointwise: :func:`loss_and_gradient`, compiled; None does the same step by step, in place, as suits a CPU.

    Returns:
        The summed label-smoothed loss, and the summed negative log-likelihood without smoothing, without gradient.
    """
    device = states.device.type
    if torch.is_autocast_enabled(device):
        states = states.to(torch.get_autocast_dtype(device))
    # Autocast would cast some of the products inside and not others.
    with torch.autocast(device, enabled=False):
        loss, likelihood = _LinearCrossEntropy.apply(states, weight, targets, smoothing, bias, pointwise)  # type: ignore[no-untyped-call]
    return loss, likelihood


class _LinearCrossEntropy(torch.autograd.Function):
    """See :func:`linear_cross_entropy`; d loss / d logits = softmax - (1 - e) onehot - e / V."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        bias: Tensor | None,
        pointwise: Pointwise | None,
    ) -> tuple[Tensor, Tensor]:
        num_tokens, vocab_size = states.shape[0], weight.shape[0]
        compute = states.dtype
        precise = torch.promote_types(compute, torch.float32)
        matrix = weight.to(compute)
        budget = CUDA_CHUNK_BYTES if states.is_cuda else CHUNK_BYTES
        rows = max(1, budget // (4 * vocab_size))
        grad_states = torch.empty_like(states)
        grad_weight = torch.zeros_like(weight, dtype=precise)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=precise)
        loss = states.new_zeros((), dtype=precise)
        likelihood = states.new_zeros((), dtype=precise)
        for start in range(0, num_tokens, rows):
            part = states[start : start + rows]
            target = targets[start : start + rows]
            logits = part @ matrix.t()  # (n, V)
            if pointwise is None:
                logits = logits.to(precise)
            if bias is not None:
                logits += bias
            own_loss, own_likelihood, gradient = (pointwise or _in_place)(logits, target, smoothing)
            loss += own_loss
            likelihood += own_likelihood
            if grad_bias is not None:
                grad_bias += gradient.sum(dim=0)
            gradient = gradient.to(compute)
            torch.mm(gradient, matrix, out=grad_states[start : start + rows])
            if compute == precise:
                grad_weight.addmm_(gradient.t(), part)
            else:
                grad_weight += gradient.t() @ part
        ctx.save_for_backward(grad_states, grad_weight, grad_bias)
        ctx.mark_non_differentiable(likelihood)
        return loss, likelihood

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_weight, grad_bias = ctx.saved_tensors
        return (
            grad_states * grad_loss.to(grad_states.dtype),
            grad_weight * grad_loss,
            None,
            None,
            None if grad_bias is None else grad_bias * grad_loss,
            None,
        )


def _in_place(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Do what :func:`loss_and_gradient` does, with the logits' own memory for the gradient."""
    target = targets[:, None]
    peak = logits.amax(dim=-1, keepdim=True)
    mean_logit = logits.mean(dim=-1) if smoothing else None
    target_logit = logits.gather(1, target).squeeze(1)
    logits -= peak
    gradient = logits.exp_()
    total = gradient.sum(dim=-1, keepdim=True)
    log_total = (total.log() + peak).squeeze(1)
    nll = log_total - target_logit
    loss = ((1 - smoothing) * nll).sum()
    if mean_logit is not None:
        loss += (smoothing * (log_total - mean_logit)).sum()
    gradient /= total
    if smoothing:
        gradient -= smoothing / logits.shape[1]
    gradient.scatter_add_(1, target, torch.full_like(target, smoothing - 1.0, dtype=gradient.dtype))
    return loss, nll.sum(), gradient
