"""The command `dragoman inspect`: a model's sizes, and what loading and training it would need; it loads no weight.

Heavy imports stand inside, as in ``model/cli.py``, which joins it to the other commands.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from model.checkpoints.inspection import Inspection
    from model.checkpoints.training_memory import TrainingMemory

_SHARDINGS = {"replicated": "DDP", "zero1": "ZeRO 1", "zero2": "ZeRO 2", "zero3": "ZeRO 3"}
_UNDETERMINED = "und"
"""In the place of languages that a folder does not state, as in ISO 639."""
_MEMORY_ROWS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer_states": "optimiser states",
    "average": "average of the weights",
    "activations": "activations",
    "gathered": "gathered weights",
    "total": "sum",
}


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="Folder of a model, or of a training run.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ],
    batch_tokens: Annotated[int, typer.Option(help="Target tokens of a training batch on one device.", min=1)] = 4096,
    length: Annotated[int, typer.Option(help="Tokens of each side of a training pair.", min=1)] = 32,
    gpus: Annotated[int, typer.Option(help="GPUs that would train it together.", min=0, show_default="0: the CPU")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Show a model's family, languages, sizes and memory without loading it, and what training it would need."""
    found = inspect_folder(path)
    training = training_needs(found, batch_tokens, length, gpus)
    machine = machine_memory(gpus)
    if as_json:
        print(json.dumps(_facts(found) | {"training": _plain(training), "memory_of_this_machine": machine}))
        return
    for line in (*_lines(found), "", *_training_lines(training, batch_tokens, length, gpus)):
        print(line)
    for line in _verdicts(training, machine, gpus):
        print(line)


def inspect_folder(path: Path) -> Inspection:
    """Return the facts of a model's folder, of a training run's newest checkpoint, or of a folder to be imported.

    Raises:
        CheckpointError: it has no model that can be loaded or imported; all reasons are told.
    """
    from model.checkpoints.checkpoint import CONFIG_FILE
    from model.checkpoints.inspection import inspect_checkpoint
    from model.importing.folder import read_json
    from model.importing.native_marian import is_native
    from model.training.run_directory import RunDirectory

    if is_native(path):
        return _inspect_native(path)
    folder = RunDirectory(path, keep=1).newest_path() or path
    if "model_type" in read_json(folder / CONFIG_FILE):
        return _inspect_foreign(folder)
    return inspect_checkpoint(folder)


def _inspect_native(folder: Path) -> Inspection:
    """Return the facts of a folder in Marian's own form, whose one file of arrays has to be read for that."""
    from model.checkpoints.inspection import MOST_TENSORS, inspect_network, parameter_shapes
    from model.importing.native_marian import read_native
    from model.importing.tokenizers import Wanted

    config, _, tokenizer, _, _ = read_native(folder, Wanted(_UNDETERMINED, _UNDETERMINED))
    source, target = (
        tuple(code for code in codes if code != _UNDETERMINED)
        for codes in (tokenizer.source_languages, tokenizer.target_languages)
    )
    shapes = parameter_shapes(config, MOST_TENSORS)
    return inspect_network(folder.resolve().name, "marian", (source, target), config, shapes, {})


def _inspect_foreign(folder: Path) -> Inspection:
    """Return the facts of a folder in the Hugging Face layout, checked as for an import."""
    from model.checkpoints.checkpoint import CONFIG_FILE
    from model.checkpoints.inspection import inspect_foreign, parameter_shapes
    from model.errors import CheckpointError
    from model.importing.folder import open_weights, read_json
    from model.importing.importing import read_config
    from model.importing.renaming import plan_renaming
    from model.importing.tokenizers import Wanted, read_tokenizer

    values = read_json(folder / CONFIG_FILE)
    shapes = open_weights(folder).shapes
    config, table, settings = read_config(values, CONFIG_FILE, shapes)
    settings.refuse()
    settings.problems += plan_renaming(shapes, parameter_shapes(config, len(shapes)), table).problems
    settings.refuse()
    try:
        tokenizer = read_tokenizer(folder, values, config.vocab_size, Wanted())
        languages = tokenizer.source_languages, tokenizer.target_languages
    except CheckpointError:  # the weights can be described all the same
        languages = (), ()
    return inspect_foreign(folder, folder.resolve().name, str(values["model_type"]), languages, config)


def training_needs(
    found: Inspection, batch_tokens: int, length: int, gpus: int
) -> dict[str, dict[str, TrainingMemory]]:
    """Return what training needs on each device, by optimiser and by what the devices share."""
    from model.checkpoints.inspection import parameter_shapes
    from model.checkpoints.training_memory import SHARDINGS, TrainingBatch, training_memory

    shapes = parameter_shapes(found.config, found.config.num_encoder_layers + found.config.num_decoder_layers)
    batch = TrainingBatch(batch_tokens, min(length, batch_tokens))
    return {
        optimizer: {
            sharding: training_memory(
                found.config,
                shapes,
                batch,
                optimizer,
                sharding=sharding,
                num_devices=max(1, gpus),
                fused=gpus > 0,
            )
            for sharding in (SHARDINGS if gpus > 1 else SHARDINGS[:1])
        }
        for optimizer in ("adamw", "muon")
    }


def machine_memory(gpus: int) -> dict[str, int]:
    """Return the bytes that this process may use, and those of each CUDA device where GPUs are asked for."""
    import torch

    from model.engine.memory_limit import memory_limit

    memory = {"memory": memory_limit()}
    if gpus and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory[f"cuda:{index}"] = int(torch.cuda.get_device_properties(index).total_memory)
    return memory


def _facts(found: Inspection) -> dict[str, Any]:
    return {
        **dataclasses.asdict(found),
        "num_parameters": found.num_parameters,
        "languages": sorted({*found.source_languages, *found.target_languages}),
    }


def _plain(training: dict[str, dict[str, TrainingMemory]]) -> dict[str, Any]:
    return {
        optimizer: {
            sharding: dataclasses.asdict(need) | {"total": need.total} for sharding, need in by_sharding.items()
        }
        for optimizer, by_sharding in training.items()
    }


def _lines(found: Inspection) -> list[str]:
    config = found.config
    heads = f"{config.num_heads} heads of {config.width_per_head}"
    feed_forward = f"{'gated ' if config.gated else ''}{config.activation} of {config.d_ff}"
    stored = ", ".join(f"{size_text(size)} in {name}" for name, size in found.stored_formats.items())
    source, target = (", ".join(each) or "not stated" for each in (found.source_languages, found.target_languages))
    languages = source if source == target else f"{source} to {target}"
    lines = [
        f"{found.name if found.name.isprintable() else ascii(found.name)}: {found.family}",
        f"languages: {languages}",
        f"layers: {config.num_encoder_layers} in the encoder, {config.num_decoder_layers} in the decoder",
        f"width: {config.d_model}, {heads}, {feed_forward}",
        f"vocabulary: {config.vocab_size} tokens",
        f"positions: {config.position_type}, sources up to {config.max_source_length} tokens, "
        f"targets up to {config.max_target_length}",
        f"stored: {stored or 'in no file that can be read without loading it'}",
        "",
        f"parameters: {found.num_parameters:,}",
    ]
    for part, number in found.parameters.items():
        lines.append(f"  {part.replace('_', ' '):<24}{number:>15,}  {number / max(1, found.num_parameters):6.1%}")
    lines += ["", "memory of the weights:"]
    lines += [f"  {name:<24}{size_text(size):>15}" for name, size in found.bytes_in.items()]
    lines.append("memory of keys and values in float32, for 100 tokens:")
    lines += [
        f"  {f'of a {side}':<24}{size_text(size):>15}  {note}"
        for (side, size), note in zip(
            found.cache_bytes.items(), ("once for all its hypotheses", "of each hypothesis"), strict=True
        )
    ]
    return lines


def _training_lines(
    training: dict[str, dict[str, TrainingMemory]], batch_tokens: int, length: int, gpus: int
) -> list[str]:
    where = "on the CPU" if gpus == 0 else f"on each of {gpus} GPUs" if gpus > 1 else "on one GPU"
    lines = [f"memory of training {where}, in float32, with {batch_tokens} tokens a batch in rows of {length}:"]
    for optimizer, needs in training.items():
        name = {"adamw": "AdamW", "muon": "Muon"}[optimizer]
        columns = [_SHARDINGS[sharding] if gpus > 1 else "" for sharding in needs]
        lines.append(f"  {f'with {name}':<24}" + "".join(f"{column:>15}" for column in columns))
        for row, label in _MEMORY_ROWS.items():
            sizes = [int(getattr(need, row)) for need in needs.values()]
            if any(sizes):
                lines.append(f"    {label:<22}" + "".join(f"{size_text(size):>15}" for size in sizes))
    return lines


def _verdicts(training: dict[str, dict[str, TrainingMemory]], machine: dict[str, int], gpus: int) -> list[str]:
    """Compare what is needed with what there is."""
    devices = {name: size for name, size in machine.items() if name.startswith("cuda") == (gpus > 0)}
    if not devices:
        return ["this machine has no GPU to compare with"]
    name, size = min(devices.items(), key=lambda item: item[1])
    label = "this process may use" if name == "memory" else f"{name} has"
    lines = [f"{label} {size_text(size)}"]
    for optimizer, needs in training.items():
        fitting = [_SHARDINGS[sharding] for sharding, need in needs.items() if need.total <= size]
        smallest = min(need.total for need in needs.values())
        answer = f"fits with {', '.join(fitting)}" if len(needs) > 1 else "fits"
        if not fitting:
            answer = f"does not fit: {size_text(smallest - size)} too much"
        lines.append(f"  training with {'AdamW' if optimizer == 'adamw' else 'Muon'} {answer}")
    return lines


def size_text(size: int) -> str:
    """Return bytes as people read them, in powers of 1024."""
    number = float(size)
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.2f} GiB"
