"""Checkpoint files that are damaged or made to do harm: a clear error, before anything large is read or allocated."""

from __future__ import annotations

import dataclasses
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoints.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from model.checkpoints.network import build_network
from model.checkpoints.tensor_header import MAX_HEADER_BYTES, read_header
from model.errors import CheckpointError
from model.transformer import Transformer
from tests.unit.network_variations import VARIATIONS, build, padded_batch
from tests.unit.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer

A_MEGABYTE = 2**20
TEN_GIGABYTES = 10 * 2**30


def checkpoint_of(network: Transformer) -> Checkpoint:
    """Return a checkpoint with the network's own tensors."""
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return Checkpoint(network.config, weights, tiny_tokenizer(), {"name": "tiny"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a good checkpoint, to be damaged."""
    save_checkpoint(tmp_path / "saved", checkpoint_of(build("default", vocab_size=VOCAB_SIZE)))
    return tmp_path / "saved"


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Demand that Python itself allocates little while the test runs."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < A_MEGABYTE


def write_tensors(file: Path, header: str, data: bytes = b"") -> None:
    """Write a safetensors file with any header."""
    file.write_bytes(len(header.encode()).to_bytes(8, "little") + header.encode() + data)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("length", [TEN_GIGABYTES, 2**64 - 1, MAX_HEADER_BYTES + 1, 0, 1])
def test_a_header_of_an_impossible_length_is_not_read(length: int, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=f"the header must have 2 to 2 bytes, got {length}"):
        read_header(file)


@pytest.mark.usefixtures("little_memory")
def test_a_header_of_ten_gigabytes_that_is_there_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    with file.open("wb") as stream:
        stream.write(TEN_GIGABYTES.to_bytes(8, "little"))
        stream.truncate(TEN_GIGABYTES + 8)  # a hole that takes no space
    with pytest.raises(CheckpointError, match=f"must have 2 to {MAX_HEADER_BYTES} bytes, got {TEN_GIGABYTES}"):
        read_header(file)


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(shape=(3,))}, r"a is F32 \(3,\), 12 bytes, but has 8"),
        ({"a": entry(shape=(10**12, 10**12))}, "but has 8"),
        ({"a": entry(shape=(2**62, 2**2))}, "but has 8"),  # their product is zero in 64 bits
        ({"a": entry(shape=(-1, -2))}, "a lacks a known dtype, a shape or data_offsets"),
        ({"a": entry(shape=(2.0,))}, "a lacks"),
        ({"a": entry(shape=(True, 2))}, "a lacks"),
        ({"a": entry(shape=2)}, "a lacks"),
        ({"a": entry(shape="2")}, "a lacks"),
        ({"a": entry(dtype="F7")}, "a lacks"),
        ({"a": entry(dtype=["F32"])}, "a lacks"),
        ({"a": entry(offsets=(0,))}, "a lacks"),
        ({"a": entry(offsets=(8, 0))}, "but has -8"),
        ({"a": [1]}, "a lacks"),
        ({"a": entry(), "b": entry()}, "b begins at byte 0 of the data, the one before ends at 8"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, "b begins at byte 4 of the data, the one before ends at 8"),
        ({"a": entry(), "b": entry(offsets=(12, 20))}, "b begins at byte 12 of the data, the one before ends at 8"),
        ({"a": entry(), "b": entry(offsets=(8, 16))}, "the tensors have 16 bytes, the file has 8"),
        ({}, "the tensors have 0 bytes, the file has 8"),
        ([entry()], "must be a JSON object"),
    ],
)
def test_a_header_that_does_not_describe_its_file_is_told(header: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    write_tensors(file, json.dumps(header), bytes(8))
    with pytest.raises(CheckpointError, match=message):
        read_header(file)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (f'{{"a": {json.dumps(entry())}, "a": {json.dumps(entry())}}}', "the key 'a' stands twice"),
        ('{"a": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', "the key 'dtype' stands"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": 1e999}', "1e999 is too large"),
        ("[" * 100_000, "too many levels"),
        ("\x00\x01", "is not JSON"),
        ('{"a": ' + "9" * 10_000 + "}", "is not JSON"),
    ],
)
def test_a_header_that_is_no_strict_json_is_told(header: str, message: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / "weights.safetensors", header, bytes(8))
    with pytest.raises(CheckpointError, match=message):
        read_header(tmp_path / "weights.safetensors")


def test_headers_of_good_files_agree_with_the_package(folder: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in load_file(folder / "weights.safetensors").items()}
    header = read_header(folder / "weights.safetensors")
    assert {name: tensor.shape for name, tensor in header.items()} == expected
    assert {tensor.dtype for tensor in header.values()} == {"F32"}


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edit(description)
    (folder / "config.json").write_text(json.dumps(description), encoding="utf-8")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["model"].update(dropout=float("nan")), "NaN is no JSON number"),
        (lambda d: d["model"].update(norm_epsilon=float("inf")), "Infinity is no JSON number"),
        (lambda d: d["metadata"].update(score=float("nan")), "NaN is no JSON number"),
        (lambda d: d["model"].update(vocab_size=10**15), "the network's vocab_size is 1000000000000000"),
        (lambda d: d["model"].update(max_source_length=10**12), "model.max_source_length must be at most 65536"),
        (lambda d: d["model"].update(max_target_length=65_536, position_offset=1), r"65536 with position_offset \(1\)"),
    ],
)
def test_a_description_with_impossible_numbers_is_refused(
    folder: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    edited(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_a_key_that_stands_twice_in_the_description_is_refused(folder: Path) -> None:
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace('"d_model"', '"d_ff": 1, "d_model"'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="the key 'd_ff' stands twice"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"d_model": 10**12, "num_heads": 1},
        {"d_ff": 10**30},
        {"num_encoder_layers": 10**9},
        {"num_decoder_layers": 10**9},
        {"head_dim": 10**12},
        {"position_type": "relative", "relative_num_buckets": 10**12, "relative_max_distance": 10**13},
    ],
)
def test_sizes_that_no_weight_shows_are_refused_before_they_are_built(folder: Path, fields: dict[str, Any]) -> None:
    edited(folder, lambda d: d["model"].update(fields))
    checkpoint = load_checkpoint(folder)
    name, value = next(iter(fields.items())) if "position_type" not in fields else ("relative_num_buckets", 10**12)
    with pytest.raises(CheckpointError, match=f"{name.replace('head_dim', 'width_per_head')} is {value}[,;]"):
        build_network(checkpoint)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("decoder.norm.weight", (1, 16)), ("source_embedding.weight", (16, VOCAB_SIZE)), ("encoder.norm.bias", ())],
)
def test_weights_of_other_shapes_are_told(folder: Path, name: str, shape: tuple[int, ...]) -> None:
    file = folder / "weights.safetensors"
    tensors = load_file(file)
    save_file(tensors | {name: torch.zeros(shape)}, file)
    with pytest.raises(CheckpointError) as caught:
        build_network(load_checkpoint(folder))
    assert f"{name} has shape {shape}, the network wants {tuple(tensors[name].shape)}" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool, torch.uint8])
def test_number_formats_that_are_not_ours_are_refused(folder: Path, dtype: torch.dtype) -> None:
    file = folder / "weights.safetensors"
    tensors = load_file(file)
    tensors["encoder.norm.weight"] = tensors["encoder.norm.weight"].to(dtype)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.weight must be one of F32, BF16, F16, I8, got"):
        load_checkpoint(folder)


def test_a_vector_in_int8_is_refused(folder: Path) -> None:
    file = folder / "weights.safetensors"
    tensors = load_file(file)
    tensors["encoder.norm.weight"] = tensors["encoder.norm.weight"].to(torch.int8)
    tensors["encoder.norm.weight.scale"] = torch.ones(16)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.weight is int8 and must be a matrix with"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "tokenizer.model", "shortlist.safetensors"])
def test_a_pipe_is_refused_instead_of_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=f"{name} must be a regular file"):
        load_checkpoint(folder)


def test_an_endless_device_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"config\.json must be a regular file"):
        load_checkpoint(folder)


def test_a_description_of_many_megabytes_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("ab") as stream:
        stream.truncate(TEN_GIGABYTES)
    with pytest.raises(CheckpointError, match="regular file of at most"):
        load_checkpoint(folder)


def test_a_tokenizer_of_ten_gigabytes_is_not_read(folder: Path) -> None:
    with (folder / "tokenizer.model").open("ab") as stream:
        stream.truncate(TEN_GIGABYTES)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model must have at most 268435456 bytes"):
        load_checkpoint(folder)


def test_links_are_followed_as_hubs_store_files_behind_them(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in folder.iterdir():
        (linked / file.name).symlink_to(file)
    assert load_checkpoint(linked).fingerprint() == load_checkpoint(folder).fingerprint()


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.trace,))


def test_a_pickle_in_the_place_of_weights_is_not_executed(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"a": Bomb(trace)}, folder / "weights.safetensors")
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)
    assert not trace.exists()
    torch.load((folder / "weights.safetensors").rename(tmp_path / "weights.pt"), weights_only=False)
    assert trace.exists()  # so the bomb is one


def resident(kind: str) -> int:
    """Return this process' resident memory of one kind, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the process' memory")
def test_float32_weights_are_mapped_and_become_the_parameters(tmp_path: Path) -> None:
    """Most of the memory of a network must be the file's pages, not the process' own."""
    network = build("default", vocab_size=VOCAB_SIZE, d_model=512, d_ff=4096, num_encoder_layers=4)
    save_checkpoint(tmp_path, checkpoint_of(network))
    del network
    size = (tmp_path / "weights.safetensors").stat().st_size
    before = resident("RssAnon")
    loaded = load_checkpoint(tmp_path)
    built = build_network(loaded)
    total = sum(float(parameter.detach().sum()) for parameter in built.parameters())  # every page is touched
    assert torch.tensor(total).isfinite()
    assert resident("RssAnon") - before < size / 4
    assert built.source_embedding.weight.data_ptr() == loaded.weights["source_embedding.weight"].data_ptr()


def test_replacing_a_file_leaves_what_was_mapped_from_it(folder: Path) -> None:
    loaded = load_checkpoint(folder)
    before = {name: weight.clone() for name, weight in loaded.weights.items()}
    changed = {name: weight + 1 for name, weight in loaded.weights.items()}
    save_checkpoint(folder, dataclasses.replace(loaded, weights=changed, weight_format="float16"))
    assert all(torch.equal(before[name], weight) for name, weight in loaded.weights.items())
    assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.model", "weights.safetensors"}


def test_a_write_that_fails_leaves_the_old_file_and_no_trace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_checkpoint(folder)
    content = (folder / "weights.safetensors").read_bytes()

    def fill_the_disk(_: dict[str, torch.Tensor], file: Path) -> None:
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.checkpoints.checkpoint.save_file", fill_the_disk)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(folder, loaded)
    assert (folder / "weights.safetensors").read_bytes() == content
    assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.model", "weights.safetensors"}


def test_changing_a_mapped_weight_leaves_the_file(folder: Path) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    for weight in load_checkpoint(folder).weights.values():
        weight.zero_()
    assert (folder / "weights.safetensors").read_bytes() == content


@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_network_of_a_checkpoints_own_tensors_computes_what_a_copy_does(variation: str) -> None:
    checkpoint = checkpoint_of(build(variation))
    copied = Transformer(checkpoint.config).eval()
    load_weights(copied, checkpoint.weights)
    built = build_network(checkpoint)
    assert {name: parameter.shape for name, parameter in built.named_parameters()} == {
        name: parameter.shape for name, parameter in copied.named_parameters()
    }
    assert not any(tensor.is_meta for tensor in (*built.parameters(), *built.buffers()))
    batch = padded_batch(checkpoint.config)
    with torch.no_grad():
        assert torch.equal(
            built(batch.source_ids, batch.target_input_ids), copied(batch.source_ids, batch.target_input_ids)
        )
