"""Label-smoothed cross-entropy, with the output projection inside so that the logits never exist all at once."""

from __future__ import annotations

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


def linear_cross_entropy(
    states: Tensor, weight: Tensor, targets: Tensor, smoothing: float, bias: Tensor | None = None
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

    Returns:
        The summed label-smoothed loss, and the summed negative log-likelihood without smoothing, without gradient.
    """
    device = states.device.type
    if torch.is_autocast_enabled(device):
        states = states.to(torch.get_autocast_dtype(device))
    # Autocast would cast some of the products inside and not others.
    with torch.autocast(device, enabled=False):
        loss, likelihood = _LinearCrossEntropy.apply(states, weight, targets, smoothing, bias)  # type: ignore[no-untyped-call]
    return loss, likelihood


class _LinearCrossEntropy(torch.autograd.Function):
    """See :func:`linear_cross_entropy`; d loss / d logits = softmax - (1 - e) onehot - e / V."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, smoothing: float, bias: Tensor | None
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
            target = targets[start : start + rows, None]
            logits = (part @ matrix.t()).to(precise)  # (n, V)
            if bias is not None:
                logits += bias
            peak = logits.amax(dim=-1, keepdim=True)
            mean_logit = logits.mean(dim=-1) if smoothing else None
            target_logit = logits.gather(1, target).squeeze(1)
            logits -= peak
            gradient = logits.exp_()
            total = gradient.sum(dim=-1, keepdim=True)
            log_total = (total.log() + peak).squeeze(1)
            nll = log_total - target_logit
            likelihood += nll.sum()
            loss += ((1 - smoothing) * nll).sum()
            if mean_logit is not None:
                loss += (smoothing * (log_total - mean_logit)).sum()
            gradient /= total
            if smoothing:
                gradient -= smoothing / vocab_size
            gradient.scatter_add_(1, target, torch.full_like(target, smoothing - 1.0, dtype=gradient.dtype))
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
        )
