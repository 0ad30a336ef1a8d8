"""Time decoding in CUDA graphs against Hugging Face generate on the same weights; prints a table and a JSON line.

    python benchmarks/gpu_decoding.py --size ds --dtype float16 --output benchmarks/DATE-gpu-decoding
    python benchmarks/gpu_decoding.py --device cpu --tiny

The network is a MarianMT one with random weights, given to both. The end token is made impossible and every request has
its own limit, so both compute the same tokens. Ours keeps so many requests in flight and takes a new one for each that
finishes; theirs takes them in batches of that many, and each batch runs to its longest limit. Only tokens that were
asked for are counted. The bound of a step is the time to read its weights, keys and values at the measured bandwidth.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers

from model.config import GenerationConfig, ModelConfig
from model.generation import GenerationInput
from model.graphs import GraphBatch, graph_batches
from model.transformer import Transformer
from tests.parity.renaming import Rename, rename

MARIAN = [
    Rename(r"model\.(\w+\.layers\.\d+)\.self_attn\.(\w+_proj\.\w+)", r"\1.self_attention.\2"),
    Rename(r"model\.(\w+\.layers\.\d+)\.encoder_attn\.(\w+_proj\.\w+)", r"\1.cross_attention.\2"),
    Rename(r"model\.(\w+\.layers\.\d+)\.self_attn_layer_norm\.(\w+)", r"\1.self_attention_residual.norm.\2"),
    Rename(r"model\.(\w+\.layers\.\d+)\.encoder_attn_layer_norm\.(\w+)", r"\1.cross_attention_residual.norm.\2"),
    Rename(r"model\.(\w+\.layers\.\d+)\.final_layer_norm\.(\w+)", r"\1.feed_forward_residual.norm.\2"),
    Rename(r"model\.(\w+\.layers\.\d+)\.fc1\.(\w+)", r"\1.feed_forward.in_proj.\2"),
    Rename(r"model\.(\w+\.layers\.\d+)\.fc2\.(\w+)", r"\1.feed_forward.out_proj.\2"),
    Rename(r"model\.shared\.weight|model\.\w+\.embed_tokens\.weight|lm_head\.weight", "source_embedding.weight"),
    Rename("final_logits_bias", "output_bias"),
    Rename(r"model\.\w+\.embed_positions\.weight", None),
]
"""Their names of tensors to ours."""
SIZES = {  # d_model, d_ff, heads, encoder layers, decoder layers, vocabulary
    "tiny": (32, 64, 4, 2, 2, 500),
    "small": (256, 1024, 4, 5, 2, 8000),
    "ds": (512, 2048, 8, 6, 2, 16000),
    "base": (512, 2048, 8, 6, 6, 32000),
}
COMPILED = "generate, static cache, compiled"
IMPOSSIBLE = -30.0
"""Logit bias of tokens that must not be generated, far below what random weights give."""
Requests = Sequence[tuple[list[int], int]]
"""Sources, and how many tokens each wants."""


@dataclass
class Measured:
    """One line of the table."""

    contestant: str
    num_beams: int
    concurrency: int
    spread: float
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    request_milliseconds: float = 0.0
    """From joining to the end, in the mean."""
    step_milliseconds: float | None = None
    bound_milliseconds: float | None = None
    peak_mebibytes: float | None = None
    error: str | None = None
    all_seconds: list[float] = field(default_factory=list)


def networks(size: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, Transformer]:
    """Return the same random network as theirs, on the device, and as ours, on the CPU in float32."""
    d_model, d_ff, heads, encoder_layers, decoder_layers, vocab_size = SIZES[size]
    shape: dict[str, Any] = {
        "vocab_size": vocab_size, "d_model": d_model, "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers, "encoder_attention_heads": heads, "decoder_attention_heads": heads,
        "encoder_ffn_dim": d_ff, "decoder_ffn_dim": d_ff, "max_position_embeddings": 512,
        "activation_function": "relu", "scale_embedding": True, "pad_token_id": vocab_size - 1, "eos_token_id": 0,
        "decoder_start_token_id": vocab_size - 1, "forced_eos_token_id": None, "attn_implementation": "sdpa",
    }  # fmt: skip
    torch.manual_seed(0)
    theirs: Any = transformers.MarianMTModel(transformers.MarianConfig(**shape))
    theirs.eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.dim() == 2 and "embed_positions" not in name:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        theirs.final_logits_bias[0, [0, vocab_size - 1]] = IMPOSSIBLE
    config = ModelConfig(
        vocab_size=vocab_size, d_model=d_model, d_ff=d_ff, num_heads=heads, num_encoder_layers=encoder_layers,
        num_decoder_layers=decoder_layers, max_source_length=512, max_target_length=512, norm_position="post",
        final_norm=False, sinusoid_layout="halves", output_bias=True, pad_id=vocab_size - 1, bos_id=vocab_size - 1,
        eos_id=0, decoder_start_id=vocab_size - 1,
    )  # fmt: skip
    ours = Transformer(config).eval()
    ours.load_state_dict(rename(theirs.state_dict(), MARIAN), strict=False)
    missing = set(ours.state_dict()) - set(rename(theirs.state_dict(), MARIAN))
    assert all("target_embedding" in name for name in missing), missing  # shared with the source's
    return theirs.to(device=device, dtype=dtype), ours


def some_requests(count: int, vocab_size: int, length: int, spread: float) -> Requests:
    """Return random sources of ``length`` tokens whose targets are as long, up to ``spread`` of it more or less."""
    choose = random.Random(count)
    return [
        (
            [choose.randrange(1, vocab_size - 1) for _ in range(length - 1)] + [0],
            max(1, round(length * (1 + spread * choose.uniform(-1, 1)))),
        )
        for _ in range(count)
    ]


def run_ours(batch: GraphBatch[int], requests: Requests, num_beams: int, concurrency: int) -> list[list[int]]:
    """Decode with ``concurrency`` requests in flight, and return the tokens of each."""
    waiting = list(enumerate(requests))[::-1]
    found: dict[int, list[int]] = {}
    while waiting or batch.num_requests:
        joining = [waiting.pop() for _ in range(min(len(waiting), concurrency - batch.num_requests))]
        options = [GenerationConfig(beam_size=num_beams, max_new_tokens=limit) for _, (_, limit) in joining]
        batch.add([(key, GenerationInput(s, c)) for (key, (s, _)), c in zip(joining, options, strict=True)])
        for key, hypotheses in batch.step():
            found[key] = list(hypotheses[0].token_ids)
    return [found[key] for key in range(len(requests))]


def run_theirs(
    theirs: Any, requests: Requests, num_beams: int, concurrency: int, options: dict[str, Any]
) -> list[list[int]]:
    """Decode in batches of ``concurrency``, and return the tokens of each request, cut to its limit."""
    found: list[list[int]] = []
    for start in range(0, len(requests), concurrency):
        group = requests[start : start + concurrency]
        ids = torch.tensor([source for source, _ in group], device=theirs.device)
        longest = max(limit for _, limit in group)
        with torch.inference_mode():
            output = theirs.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=num_beams, do_sample=False,
                max_new_tokens=longest, length_penalty=1.0, **options,
            )  # fmt: skip
        rows = output[:, 1:].tolist()
        found += [row[:limit] for row, (_, limit) in zip(rows, group, strict=True)]
    return found


def timed(run: Callable[[], object], device: torch.device, warm_ups: int, repeats: int) -> tuple[list[float], float]:
    """Return the seconds of each run after the warm-ups, and the peak of memory in MiB that this took (0 on the CPU).

    Weights are not counted. Memory is what the allocator holds, which what is inside of graphs is a part of.
    """
    on_cuda = device.type == "cuda"
    if on_cuda:
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device) if on_cuda else 0
    for _ in range(warm_ups):
        run()
    seconds = []
    for _ in range(repeats):
        if on_cuda:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        run()
        if on_cuda:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_reserved(device) - before if on_cuda else 0
    return seconds, peak / 2**20


def bandwidth(device: torch.device) -> float:
    """Return the bytes per second that a large copy reads and writes."""
    size = 2**30 if device.type == "cuda" else 2**26
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds, _ = timed(lambda: target.copy_(source), device, 2, 10)
    return 2 * size / min(seconds)


def step_bytes(config: ModelConfig, line: Measured, length: int, bytes_per_number: int) -> int:
    """Return what one step must read: decoder and output weights once, and keys and values half-way to the end."""
    d, width = config.d_model, config.num_heads * config.width_per_head
    layer = 4 * d * width + 2 * d * width + 2 * d * config.d_ff  # cross-attention's keys and values are there already
    weights = config.num_decoder_layers * layer + config.vocab_size * d
    cached_positions = line.concurrency * (line.num_beams * length // 2 + length)
    cached = 2 * config.num_decoder_layers * width * cached_positions
    return (weights + cached) * bytes_per_number


def measure_ours(
    new_batch: Callable[[], GraphBatch[int]], line: Measured, requests: Requests, arguments: argparse.Namespace
) -> list[list[int]]:
    """Fill in our line, and return the tokens."""
    batch = new_batch()
    outputs: list[list[int]] = []
    steps: list[int] = []

    def run() -> None:
        before = batch.num_steps
        outputs[:] = run_ours(batch, requests, line.num_beams, line.concurrency)
        steps.append(batch.num_steps - before)

    seconds, line.peak_mebibytes = timed(run, torch.device(arguments.device), arguments.warm_ups, arguments.repeats)
    fill(line, seconds, requests)
    line.step_milliseconds = 1e3 * line.seconds / statistics.median(steps)
    return outputs


def fill(line: Measured, seconds: list[float], requests: Requests) -> None:
    """Note the times of a line."""
    line.all_seconds, line.seconds = seconds, statistics.median(seconds)
    line.tokens_per_second = sum(limit for _, limit in requests) / line.seconds
    line.request_milliseconds = 1e3 * line.seconds * min(line.concurrency, len(requests)) / len(requests)


def measure_theirs(
    theirs: Any, line: Measured, requests: Requests, options: dict[str, Any], arguments: argparse.Namespace
) -> list[list[int]]:
    """Fill in one of their lines; what does not work there is noted, and the others go on."""
    outputs: list[list[int]] = []
    if line.contestant == COMPILED:
        torch.compiler.reset()  # otherwise a few shapes of earlier lines would be the last that are compiled

    def run() -> None:
        outputs[:] = run_theirs(theirs, requests, line.num_beams, line.concurrency, options)

    try:
        seconds, line.peak_mebibytes = timed(run, torch.device(arguments.device), arguments.warm_ups, arguments.repeats)
    except Exception as error:  # whatever their library raises for a combination that it does not support
        line.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        return []
    fill(line, seconds, requests)
    return outputs


def agreement(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    """Return the share of requests whose tokens are all equal."""
    return sum(list(mine) == list(peer) for mine, peer in zip(ours, theirs, strict=True)) / len(ours)


def their_ways(line: Measured, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the options of ``generate`` to compare with.

    Compiling takes most of a minute for each shape of the static cache, so it is done for equal limits only.
    """
    if line.concurrency > arguments.most_theirs:
        return {}
    ways: dict[str, dict[str, Any]] = {
        "generate": {},
        "generate, static cache": {"cache_implementation": "static", "disable_compile": True},
    }
    if line.concurrency in arguments.compiled and line.spread == 0.0 and arguments.device.startswith("cuda"):
        compile_config = transformers.CompileConfig(fullgraph=False, mode="reduce-overhead")
        ways[COMPILED] = {"cache_implementation": "static", "compile_config": compile_config}
    return ways


def measure_cell(
    line: Measured,
    new_batch: Callable[[], GraphBatch[int]],
    theirs: Any,
    config: ModelConfig,
    agreements: dict[str, float],
    arguments: argparse.Namespace,
) -> list[Measured]:
    """Measure one number of requests with all contestants, ours being ``line``; note how often outputs are equal."""
    count = max(8, line.concurrency * arguments.rounds)
    requests = some_requests(count, config.vocab_size, arguments.length, line.spread)
    outputs = measure_ours(new_batch, line, requests, arguments)
    lines = [line]
    for name, options in their_ways(line, arguments).items():
        peer = Measured(name, line.num_beams, line.concurrency, line.spread)
        lines.append(peer)
        peers = measure_theirs(theirs, peer, requests, options, arguments)
        if peers and line.spread == 0.0:  # a beam search that runs on can change its mind about earlier tokens
            agreements[f"{name}, {line.num_beams} beams, {line.concurrency}"] = agreement(outputs, peers)
    return lines


def markdown(lines: Sequence[Measured]) -> str:
    """Return the table."""
    rows = [
        "| beams | concurrent | spread | contestant | tokens/s | ms a request | ms a step | bound, ms | peak, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        start = f"| {line.num_beams} | {line.concurrency} | {line.spread} | {line.contestant} |"
        if line.error is not None:
            rows.append(f"{start} {line.error.replace('|', '/')} | | | | |")
            continue
        step = "" if line.step_milliseconds is None else f"{line.step_milliseconds:.3f}"
        bound = "" if line.bound_milliseconds is None else f"{line.bound_milliseconds:.3f}"
        end = f"{step} | {bound} | {line.peak_mebibytes or 0:.0f} |"
        rows.append(f"{start} {line.tokens_per_second:.0f} | {line.request_milliseconds:.2f} | {end}")
    return "\n".join(rows)


def parsed() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default=None, choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--size", default="ds", choices=tuple(SIZES))
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: the smallest network, few requests")
    parser.add_argument("--concurrency", type=int, nargs="+", default=None)
    parser.add_argument("--beams", type=int, nargs="+", default=(1, 4))
    parser.add_argument("--spreads", type=float, nargs="+", default=(0.0, 0.5))
    parser.add_argument("--length", type=int, default=None, help="tokens of sources and, in the mean, of targets")
    parser.add_argument("--rounds", type=int, default=2, help="requests for each one in flight; at least 8 in all")
    parser.add_argument("--warm-ups", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most-theirs", type=int, default=1024, help="greatest concurrency of the peer")
    parser.add_argument("--seconds", type=float, default=540.0, help="start no measurement after so many seconds")
    parser.add_argument("--compiled", type=int, nargs="*", default=(1, 64), help="where the peer is compiled, too")
    parser.add_argument("--output", default=None, help="write .json and .md files with this path")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.size, arguments.warm_ups, arguments.repeats = "tiny", 1, 2
    arguments.dtype = arguments.dtype or ("float16" if arguments.device.startswith("cuda") else "float32")
    arguments.concurrency = arguments.concurrency or ([1, 4] if arguments.tiny else [1, 4, 16, 64, 256, 1024])
    arguments.length = arguments.length or (8 if arguments.tiny else 30)
    return arguments


def main() -> None:
    """Measure and print."""
    arguments = parsed()
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    theirs, ours = networks(arguments.size, device, dtype)
    banned = (0, ours.config.pad_id)
    new_batch: Callable[[], GraphBatch[int]] = graph_batches(ours, device, dtype, banned)
    bytes_per_second = bandwidth(device)
    lines: list[Measured] = []
    agreements: dict[str, float] = {}
    deadline = time.monotonic() + arguments.seconds
    for concurrency in arguments.concurrency:
        for num_beams in arguments.beams:
            for spread in arguments.spreads:
                if time.monotonic() < deadline:
                    cell = Measured("ours", num_beams, concurrency, spread)
                    found = measure_cell(cell, new_batch, theirs, ours.config, agreements, arguments)
                    print(markdown(found), file=sys.stderr, flush=True)
                    lines += found
    for line in lines:
        if line.contestant == "ours":
            read = step_bytes(ours.config, line, arguments.length, dtype.itemsize)
            line.bound_milliseconds = 1e3 * read / bytes_per_second
    facts = {
        "command": " ".join(sys.argv),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "network": {"size": arguments.size, "shape": SIZES[arguments.size], "dtype": arguments.dtype},
        "bytes_per_second": bytes_per_second,
        "equal_outputs": agreements,
        "lines": [vars(line) for line in lines],
    }
    print(markdown(lines))
    print(json.dumps(facts))
    if arguments.output:
        Path(f"{arguments.output}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        Path(f"{arguments.output}.md").write_text(markdown(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
