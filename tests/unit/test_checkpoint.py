"""Checkpoints there and back in every number format, and a clear error for every way in which one can be damaged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.checkpoints.checkpoint import Checkpoint, WeightFormat, load_checkpoint, load_weights, save_checkpoint
from model.errors import CheckpointError
from model.text.tokenizer import Tokenizer, train_tokenizer
from model.transformer import Transformer
from tests.unit.network_variations import build, padded_batch
from tests.unit.tiny_tokenizer import VOCAB_SIZE, sentences, tiny_tokenizer

RELATIVE_ERROR = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Half the distance of two neighbours, relative to the number: 8, 11 and 24 bits of significand (float32 is exact)."""
ABSOLUTE_ERROR = {"float32": 0.0, "bfloat16": 0.0, "float16": 2.0**-25}
"""Half of the smallest subnormal number; that of bfloat16 is as small as float32's."""

every_format = pytest.mark.parametrize("weight_format", get_args(WeightFormat))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # networks this small only lose by more


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def network() -> Transformer:
    return build("default", vocab_size=VOCAB_SIZE)


@pytest.fixture
def checkpoint(network: Transformer, tokenizer: Tokenizer) -> Checkpoint:
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    metadata = {"name": "tiny", "steps": 12, "scores": {"bleu": 1.5}, "note": "é ☕"}
    return Checkpoint(network.config, weights, tokenizer, metadata)


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """Return a folder with a good checkpoint, to be damaged."""
    save_checkpoint(tmp_path / "saved", checkpoint)
    return tmp_path / "saved"


@every_format
def test_round_trip(checkpoint: Checkpoint, tmp_path: Path, weight_format: WeightFormat) -> None:
    save_checkpoint(tmp_path / "a" / "b", dataclasses.replace(checkpoint, weight_format=weight_format))
    loaded = load_checkpoint(tmp_path / "a" / "b")
    assert loaded.config == checkpoint.config
    assert loaded.metadata == checkpoint.metadata
    assert loaded.weight_format == weight_format
    assert loaded.tokenizer.serialized == checkpoint.tokenizer.serialized
    assert loaded.weights.keys() == checkpoint.weights.keys()
    for name, expected in checkpoint.weights.items():
        found = loaded.weights[name]
        assert found.dtype == torch.float32
        assert found.shape == expected.shape
        if weight_format != "int8":
            bound = expected.abs() * RELATIVE_ERROR[weight_format] + ABSOLUTE_ERROR[weight_format]
        elif expected.dim() == 2:  # half a step of the row, and float32's rounding of scale, quotient and product
            bound = expected.abs().amax(dim=1, keepdim=True) * (0.5 / 127 + 3 * 2.0**-24)
        else:
            bound = torch.zeros_like(expected)
        assert ((found - expected).abs() <= bound).all(), name


@every_format
def test_a_loaded_network_computes_the_same(
    network: Transformer, checkpoint: Checkpoint, tmp_path: Path, weight_format: WeightFormat
) -> None:
    save_checkpoint(tmp_path, dataclasses.replace(checkpoint, weight_format=weight_format))
    loaded = load_checkpoint(tmp_path)
    restored = Transformer(loaded.config).eval()
    load_weights(restored, loaded.weights)
    batch = padded_batch(network.config)
    with torch.no_grad():
        expected = network(batch.source_ids, batch.target_input_ids)
        found = restored(batch.source_ids, batch.target_input_ids)
    if weight_format == "float32":
        assert torch.equal(found, expected)
    else:
        assert 0 < (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_fingerprint_is_of_everything_that_translations_depend_on(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint)
    assert load_checkpoint(tmp_path).fingerprint() == checkpoint.fingerprint()
    name = "encoder.norm.weight"
    moved = checkpoint.weights[name].clone()
    moved[0] = torch.nextafter(moved[0], torch.tensor(9.0))  # the least change there is
    changes = [
        {"weights": {**checkpoint.weights, name: moved}},
        {"metadata": {**checkpoint.metadata, "markers": ["terms"]}},
        {"config": dataclasses.replace(checkpoint.config, norm_epsilon=1e-6)},
        {"shortlist": {"tokens": np.arange(3)}},
    ]
    found = {dataclasses.replace(checkpoint, **change).fingerprint() for change in changes}  # type: ignore[arg-type]
    assert len(found | {checkpoint.fingerprint()}) == len(changes) + 1


def test_files_on_disk_are_as_small_as_their_format(checkpoint: Checkpoint, tmp_path: Path) -> None:
    sizes = {}
    for weight_format in get_args(WeightFormat):
        save_checkpoint(tmp_path / weight_format, dataclasses.replace(checkpoint, weight_format=weight_format))
        tensors = load_file(tmp_path / weight_format / "weights.safetensors")
        sizes[weight_format] = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    num_weights = sum(weight.numel() for weight in checkpoint.weights.values())
    num_vector_weights = sum(weight.numel() for weight in checkpoint.weights.values() if weight.dim() == 1)
    num_rows = sum(len(weight) for weight in checkpoint.weights.values() if weight.dim() == 2)
    assert sizes["float32"] == 4 * num_weights
    assert sizes["float16"] == sizes["bfloat16"] == 2 * num_weights
    assert sizes["int8"] == num_weights + 3 * num_vector_weights + 4 * num_rows


def test_saving_again_replaces(checkpoint: Checkpoint, folder: Path) -> None:
    changed = {name: weight + 1 for name, weight in checkpoint.weights.items()}
    save_checkpoint(folder, dataclasses.replace(checkpoint, weights=changed, weight_format="int8", metadata={}))
    loaded = load_checkpoint(folder)
    assert loaded.metadata == {}
    assert loaded.weight_format == "int8"
    name = "encoder.norm.weight"
    assert torch.equal(loaded.weights[name], changed[name])


def test_weights_that_a_format_cannot_hold_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = "encoder.norm.weight"
    for weight_format, value in (("float16", 1e5), ("float32", float("nan")), ("int8", float("inf"))):
        weights = {**checkpoint.weights, name: torch.full_like(checkpoint.weights[name], value)}
        with pytest.raises(CheckpointError, match=rf"{name} has values that are not finite in {weight_format}"):
            save_checkpoint(tmp_path, dataclasses.replace(checkpoint, weights=weights, weight_format=weight_format))  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path / "file" / "below", checkpoint)
    (tmp_path / "weights.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save_checkpoint(tmp_path, checkpoint)


def test_all_weights_that_do_not_fit_are_told_at_once(network: Transformer, checkpoint: Checkpoint) -> None:
    weights = dict(checkpoint.weights)
    del weights["encoder.norm.weight"], weights["decoder.norm.bias"]
    weights["surplus.weight"] = torch.zeros(2)
    weights["encoder.norm.bias"] = torch.zeros(3, 4)
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, weights)
    message = str(caught.value)
    assert "missing encoder.norm.weight" in message
    assert "missing decoder.norm.bias" in message
    assert "unknown surplus.weight" in message
    assert "encoder.norm.bias has shape (3, 4), the network wants (16,)" in message
    assert message.count(";") == 3
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))


def test_a_tied_network_has_each_weight_once(network: Transformer, checkpoint: Checkpoint) -> None:
    assert "target_embedding.weight" not in checkpoint.weights
    assert network.target_embedding.weight is network.source_embedding.weight


def test_loading_copies(checkpoint: Checkpoint) -> None:
    """Training on must not change the weights that were loaded."""
    weights = {name: weight.clone() for name, weight in checkpoint.weights.items()}
    network = Transformer(checkpoint.config)
    load_weights(network, weights)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(weights[name], weight) for name, weight in checkpoint.weights.items())


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "tokenizer.model"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "tokenizer.model"])
def test_a_truncated_file_is_told(folder: Path, name: str, keep: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "tokenizer.model"])
def test_garbage_is_told(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\xff\xfe garbage \x00" * 50)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edit(description)
    (folder / "config.json").write_text(json.dumps(description), encoding="utf-8")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(format_version=2), "format_version must be 1"),
        (lambda d: d.pop("format_version"), "format_version must be 1"),
        (lambda d: d.pop("model"), "model must be of type dict"),
        (lambda d: d.update(model=[]), "model must be of type dict"),
        (lambda d: d.update(metadata="x"), "metadata must be of type dict"),
        (lambda d: d.update(weight_format=16), "weight_format must be of type str"),
        (lambda d: d.update(weight_format="int4"), "weight_format must be one of float32, bfloat16, float16, int8"),
        (lambda d: d["model"].update(nhead=8), "model.nhead must be one of vocab_size"),
        (lambda d: d["model"].update(d_model="512"), "model.d_model must be of type int"),
        (lambda d: d["model"].update(num_heads=3), "num_heads must divide d_model"),
        (lambda d: d["model"].pop("vocab_size"), "model.vocab_size must be given"),
        (lambda d: d["model"].update(vocab_size=VOCAB_SIZE + 1), "the network's vocab_size is 701"),
    ],
)
def test_a_wrong_description_is_told(folder: Path, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    edited(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_a_description_that_is_no_object_is_told(folder: Path) -> None:
    (folder / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(CheckpointError, match="format_version must be 1"):
        load_checkpoint(folder)


def test_fields_that_a_description_lacks_take_their_defaults(folder: Path, checkpoint: Checkpoint) -> None:
    """A checkpoint stays readable when ModelConfig gains a field."""
    edited(folder, lambda d: d["model"].pop("position_offset"))
    assert load_checkpoint(folder).config == checkpoint.config


def test_a_tokenizer_of_another_size_is_told(folder: Path, tmp_path: Path) -> None:
    other = train_tokenizer(sentences()[::8], tmp_path / "other.model", vocab_size=600, num_threads=1)
    (folder / "tokenizer.model").write_bytes(other.serialized)
    with pytest.raises(CheckpointError, match="tokeniser has 600 tokens, the network's vocab_size is 700"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("scales", "message"), [(None, "encoder.layers.0.feed_forward.in_proj.weight.scale"), (torch.ones(3), "3 scales")]
)
def test_scales_that_do_not_fit_are_told(
    checkpoint: Checkpoint, tmp_path: Path, scales: Tensor | None, message: str
) -> None:
    save_checkpoint(tmp_path, dataclasses.replace(checkpoint, weight_format="int8"))
    file = tmp_path / "weights.safetensors"
    tensors = load_file(file)
    name = "encoder.layers.0.feed_forward.in_proj.weight.scale"
    del tensors[name]
    save_file(tensors if scales is None else {**tensors, name: scales}, file)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_any_module_can_be_loaded() -> None:
    network = nn.Linear(2, 3)
    load_weights(network, {"weight": torch.full((3, 2), 2.0), "bias": torch.ones(3)})
    assert network(torch.ones(2)).tolist() == [5.0, 5.0, 5.0]
