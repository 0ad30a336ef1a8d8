"""Time one training step against the same network made of torch's own modules; prints a table and a JSON line.

    .venv/bin/python benchmarks/training_step.py --threads 2

Both networks have the same sizes, see the same random batch and use fused AdamW; ours has the loss in chunks and the
attention's plain path, the peer has ``torch.nn.Transformer`` and ``cross_entropy`` over all logits. Steps alternate in
one process, so that both meet the same machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.config import ModelConfig
from model.training.optimizer import Optimizer
from model.training.trainer import TrainingNetwork
from model.training_config import OptimizerConfig
from model.transformer import Transformer


class PeerNetwork(nn.Module):
    """The same sizes from torch's modules: pre-norm, tied embeddings, fixed positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=config.d_model**-0.5)
        self.network = nn.Transformer(
            config.d_model,
            config.num_heads,
            config.num_encoder_layers,
            config.num_decoder_layers,
            config.d_ff,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.scale = math.sqrt(config.d_model)
        self.register_buffer("positions", torch.randn(1, 512, config.d_model))

    def forward(self, source_ids: Tensor, target_input_ids: Tensor, targets: Tensor) -> Tensor:
        """Return the summed loss of (B, T) targets."""
        source = self.embedding(source_ids) * self.scale + self.positions[:, : source_ids.shape[1]]
        target = self.embedding(target_input_ids) * self.scale + self.positions[:, : target_input_ids.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        states = self.network(source, target, tgt_mask=mask, tgt_is_causal=True)
        logits = F.linear(states, self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=0.1)


def flops_per_step(config: ModelConfig, rows: int, source: int, target: int) -> float:
    """Return floating point operations of forward and backward: 6 per weight of a matrix and token it is applied to."""
    d, f = config.d_model, config.d_ff
    encoder = config.num_encoder_layers * (4 * d * d + 2 * d * f) * source
    decoder = config.num_decoder_layers * ((6 * d * d + 2 * d * f) * target + 2 * d * d * source)
    attention = config.num_encoder_layers * 2 * source * source * d + config.num_decoder_layers * 2 * d * (
        target * target + target * source
    )
    return 6.0 * rows * (encoder + decoder + attention + config.vocab_size * d * target)


def matmul_peak(seconds: float = 1.0) -> float:
    """Return the operations per second of a large float32 matrix product."""
    a, b = torch.randn(2048, 1024), torch.randn(1024, 1024)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        a @ b
        best = max(best, 2.0 * 2048 * 1024 * 1024 / (time.perf_counter() - started))
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--source", type=int, default=13)
    parser.add_argument("--target", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=8000, d_model=256, d_ff=1024, num_heads=4, num_encoder_layers=5, num_decoder_layers=2, dropout=0.0
    )
    shape = (arguments.rows, arguments.source), (arguments.rows, arguments.target)
    source_ids, inputs, targets = (torch.randint(4, 8000, shape[i]) for i in (0, 1, 1))
    ours = TrainingNetwork(Transformer(config), 0.1, compiled=False)
    peer = PeerNetwork(config)
    optimizers = {name: Optimizer(ours, OptimizerConfig(name=name)) for name in ("adamw", "muon")}  # type: ignore[arg-type]
    peer_optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-3, fused=True)

    def our_step(name: str) -> None:
        loss, _ = ours(source_ids, None, inputs, targets)
        (loss / targets.numel()).backward()
        optimizers[name].step()

    def peer_step() -> None:
        (peer(source_ids, inputs, targets) / targets.numel()).backward()
        nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        peer_optimizer.step()
        peer_optimizer.zero_grad()

    steps: dict[str, Callable[[], None]] = {
        "torch.nn.Transformer, AdamW": peer_step,
        "ours, AdamW": lambda: our_step("adamw"),
        "ours, Muon": lambda: our_step("muon"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(arguments.steps + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - started)
    peak = matmul_peak()
    operations = flops_per_step(config, arguments.rows, arguments.source, arguments.target)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    base = medians["torch.nn.Transformer, AdamW"]
    print(f"{'step':30} {'ms':>7} {'target tokens/s':>16} {'share of matmul peak':>21} {'time / peer':>12}")
    for name, median in medians.items():
        tokens = targets.numel() / median
        print(f"{name:30} {1e3 * median:7.0f} {tokens:16.0f} {operations / median / peak:21.2f} {median / base:12.2f}")
    print(
        json.dumps(
            {
                "seconds": medians,
                "operations_per_step": operations,
                "matmul_peak": peak,
                "threads": arguments.threads,
                "torch": torch.__version__,
                "processor": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
