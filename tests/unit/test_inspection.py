"""What `dragoman inspect` states, against files that are written, caches that are made and tensors that torch keeps."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.cli import main
from model.checkpoints.checkpoint import Checkpoint, WeightFormat, save_checkpoint
from model.checkpoints.inspection import (
    CACHE_TOKENS,
    PARTS,
    cache_bytes,
    inspect_checkpoint,
    inspect_foreign,
    parameter_shapes,
    part_of,
)
from model.checkpoints.training_memory import (
    SHARDINGS,
    OptimizerName,
    TrainingBatch,
    activation_bytes,
    training_memory,
)
from model.config import ModelConfig
from model.engine import memory_limit as memory_limit_file
from model.engine.memory_limit import memory_limit
from model.errors import CheckpointError
from model.inspect_command import size_text
from model.training.optimizer import Optimizer, WeightAverage
from model.training.trainer import TrainingNetwork
from model.training_config import OptimizerConfig
from model.transformer import Transformer
from tests.unit.network_variations import VARIATIONS, build
from tests.unit.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer

every_variation = pytest.mark.parametrize("variation", VARIATIONS)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # networks this small only lose by more


def saved(path: Path, variation: str = "default", weight_format: WeightFormat = "float32") -> Transformer:
    """Write a checkpoint of a network, and return the network."""
    network = build(variation, vocab_size=VOCAB_SIZE)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    save_checkpoint(path, Checkpoint(network.config, weights, tiny_tokenizer(), {"name": "tiny"}, weight_format))
    return network


def shapes_of(network: Transformer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def tensor_bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@every_variation
def test_parts_are_those_of_the_network_and_add_up(variation: str, tmp_path: Path) -> None:
    network = saved(tmp_path, variation)
    found = inspect_checkpoint(tmp_path)
    assert found.config == network.config
    assert found.num_parameters == sum(parameter.numel() for parameter in network.parameters())
    expected: Counter[str] = Counter()
    for side in ("encoder", "decoder"):
        part = network.get_submodule(side)
        for name, module in part.named_modules():
            kind = type(module).__name__
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            if kind in ("LayerNorm", "RMSNorm"):
                expected["norms"] += own
            elif kind == "AbsolutePositions":
                expected["embeddings"] += own
            elif kind == "RelativeBias":
                expected[f"{side}_self_attention"] += own
            elif kind == "Linear":
                inside = re.search("self_attention|cross_attention|feed_forward", name)
                assert inside
                expected[f"{side}_{inside[0]}"] += own
    tables = {id(table.weight): table.weight for table in (network.source_embedding, network.target_embedding)}
    expected["embeddings"] += sum(table.numel() for table in tables.values())
    for output in (network.output_weight, network.output_bias):
        expected["output"] += 0 if output is None else output.numel()
    assert found.parameters == {part: expected[part] for part in PARTS}


def test_a_parameter_of_no_part_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="belongs to no part"):
        part_of("encoder.something.weight")


@pytest.mark.parametrize("weight_format", get_args(WeightFormat))
@pytest.mark.parametrize("variation", ["default", "relative", "learned", "output"])
def test_bytes_are_those_of_files(variation: str, weight_format: WeightFormat, tmp_path: Path) -> None:
    saved(tmp_path, variation, weight_format)
    found = inspect_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "weights.safetensors")
    assert found.bytes_in[weight_format] == tensor_bytes(list(tensors.values()))
    by_format: Counter[str] = Counter()
    for name, tensor in tensors.items():
        by_format["scales" if name.endswith(".scale") else str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    assert found.stored_formats == by_format
    assert set(by_format) == ({"int8", "float32", "scales"} if weight_format == "int8" else {weight_format})


@pytest.mark.parametrize("variation", ["default", "head_dim"])
def test_cache_bytes_are_those_of_a_cache(variation: str) -> None:
    network = build(variation, max_source_length=CACHE_TOKENS)
    source = torch.ones(1, CACHE_TOKENS, dtype=torch.long)
    mask = torch.ones_like(source, dtype=torch.bool)
    with torch.no_grad():
        cache = network.start_cache(network.encode(source, mask), mask, capacity=CACHE_TOKENS)
    found = cache_bytes(network.config)
    assert found["source"] == tensor_bytes([cache.cross_keys, cache.cross_values])
    assert found["target"] == tensor_bytes([cache.self_keys, cache.self_values])


def test_no_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file may have a hole in the place of its weights: what stands there is not looked at."""
    saved(tmp_path)
    file = tmp_path / "weights.safetensors"
    content, size = file.read_bytes(), file.stat().st_size
    header = 8 + int.from_bytes(content[:8], "little")
    expected = inspect_checkpoint(tmp_path)
    with file.open("wb") as stream:
        stream.write(content[:header])
        stream.truncate(size)
    monkeypatch.setattr("model.checkpoints.checkpoint.safe_open", None)
    assert inspect_checkpoint(tmp_path) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"d_ff": 25},
            r"encoder.layers.0.feed_forward.in_proj.weight has shape \(24, 16\), the network wants \(25, 16\)",
        ),
        ({"num_encoder_layers": 10**9}, "num_encoder_layers is 1000000000, but there are"),
        ({"num_decoder_layers": 3}, "missing decoder.layers.2.self_attention.q_proj.weight"),
        ({"num_decoder_layers": 1}, "unknown decoder.layers.1.self_attention.q_proj.weight"),
        ({"d_ff": 10**18}, "sizes are impossible"),
        ({"d_ff": 10**30}, "sizes are impossible"),
    ],
)
def test_a_description_that_does_not_fit_the_weights_is_told(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path)
    description = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    description["model"].update(fields)
    (tmp_path / "config.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(tmp_path)


def test_another_familys_folder_is_described_by_its_headers(tmp_path: Path) -> None:
    """Sharded files, some of them in half precision, and names that are not ours."""
    network = build("default")
    half = {"theirs.a": torch.zeros(3, 5, dtype=torch.float16), "theirs.b": torch.zeros(7, dtype=torch.float16)}
    save_file(half, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"theirs.c": torch.zeros(2, 2)}, tmp_path / "model-00002-of-00002.safetensors")
    found = inspect_foreign(tmp_path, "name", "marian", (("fr",), ("en", "de")), network.config)
    assert found.stored_formats == {"float16": 2 * (15 + 7), "float32": 16}
    assert found.num_parameters == sum(parameter.numel() for parameter in network.parameters())
    assert (found.family, found.source_languages, found.target_languages) == ("marian", ("fr",), ("en", "de"))
    with pytest.raises(CheckpointError, match="num_encoder_layers is 4, but there are 3 tensors"):
        inspect_foreign(tmp_path, "name", "marian", ((), ()), dataclasses.replace(network.config, num_encoder_layers=4))


def kept_bytes(network: Transformer, batch: TrainingBatch) -> int:
    """Return the bytes of what autograd keeps of one forward pass with its loss, parameters left out."""
    training = TrainingNetwork(network, 0.1, compiled=False).train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in training.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that its address is not used again
        return tensor

    config = network.config
    words = [i for i in range(config.vocab_size) if i != config.pad_id]
    ids = torch.tensor(words)[torch.randint(len(words), (3, batch.rows, batch.length))]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        training(ids[0], torch.ones_like(ids[0], dtype=torch.bool), ids[1], ids[2])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(
    ("variation", "dropouts"),
    [
        *((variation, (0.1, 0.1)) for variation in VARIATIONS),
        *((variation, dropouts) for variation in ("default", "bart", "t5") for dropouts in ((0.0, 0.0), (0.1, 0.0))),
    ],
)
def test_activations_are_what_autograd_keeps(variation: str, dropouts: tuple[float, float]) -> None:
    dropout, attention_dropout = dropouts
    network = build(variation, d_model=32, d_ff=48, dropout=dropout, attention_dropout=attention_dropout)
    batch = TrainingBatch(72, 12)
    estimate, kept = activation_bytes(network.config, batch), kept_bytes(network, batch)
    # Left out are token ids, positions and relative distances in 8 bytes, and boolean masks in each attention.
    ids = 8 * (5 * 72 + 2 * 12 + 2 * 12 * 12)
    masks = 72 * 3 + (12 * 12 + 72) * network.config.num_decoder_layers + 72 * network.config.num_encoder_layers
    assert 0 < kept - estimate <= ids + masks
    assert estimate > 0.98 * kept


@pytest.mark.parametrize("field", ["num_encoder_layers", "num_decoder_layers", "d_ff", "num_heads"])
def test_activations_follow_the_shape(field: str) -> None:
    network = build("default", **{"d_model": 32, "dropout": 0.1, "max_source_length": 40, field: 8})
    batch = TrainingBatch(200, 40)
    assert activation_bytes(network.config, batch) == pytest.approx(kept_bytes(network, batch), rel=0.02)


@pytest.mark.parametrize("variation", ["default", "nothing_tied", "learned", "t5"])
@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_states_are_what_the_trainer_holds(variation: str, name: OptimizerName) -> None:
    network = build(variation)
    optimizer, average = Optimizer(network, OptimizerConfig(name=name, warmup_steps=0)), WeightAverage(network, 0.9)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    gradients = tensor_bytes([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    optimizer.step()
    states = [
        tensor
        for each in optimizer.state_dict()["optimizers"]
        for state in each["state"].values()
        for tensor in state.values()
    ]
    need = training_memory(network.config, shapes_of(network), TrainingBatch(64, 8), name)
    assert need.optimizer_states == tensor_bytes(states)
    assert need.gradients == gradients
    assert need.weights == tensor_bytes(list(network.parameters()))
    assert need.average == tensor_bytes(list(average.weights.values()))
    assert need.gathered == 0
    assert need.total == need.weights + need.gradients + need.optimizer_states + need.average + need.activations


def test_what_devices_share_is_a_part_of_each() -> None:
    network = build("default", vocab_size=1000)
    shapes, batch = shapes_of(network), TrainingBatch(64, 8)
    whole = training_memory(network.config, shapes, batch)
    shared = {"replicated": "", "zero1": "optimizer_states", "zero2": "gradients", "zero3": "weights average"}
    so_far: set[str] = set()
    for sharding in SHARDINGS:
        so_far |= set(shared[sharding].split())
        need = training_memory(network.config, shapes, batch, sharding=sharding, num_devices=4)
        for field in ("weights", "gradients", "optimizer_states", "average", "activations"):
            expected = math.ceil(getattr(whole, field) / 4) if field in so_far else getattr(whole, field)
            assert getattr(need, field) == expected, (sharding, field)
        assert need.gathered == (4 * 1000 * 16 if sharding == "zero3" else 0)  # the table is larger than a layer
        assert training_memory(network.config, shapes, batch, sharding=sharding) == whole  # alone, nothing is shared


def test_the_command_prints_sums_that_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = saved(tmp_path, "default", "int8")
    assert main(["inspect", str(tmp_path), "--json", "--gpus", "2", "--batch-tokens", "100", "--length", "10"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["family"], facts["languages"]) == ("tiny", "dragoman", ["en", "fr"])
    assert facts["config"] == dataclasses.asdict(network.config)
    assert sum(facts["parameters"].values()) == facts["num_parameters"] == sum(p.numel() for p in network.parameters())
    for optimizer in get_args(OptimizerName):
        for sharding in SHARDINGS:
            need = dict(facts["training"][optimizer][sharding])
            expected = training_memory(
                network.config,
                shapes_of(network),
                TrainingBatch(100, 10),
                optimizer,
                sharding=sharding,
                num_devices=2,
                fused=True,
            )
            assert need.pop("total") == sum(need.values()) == expected.total
    assert facts["memory_of_this_machine"]["memory"] == memory_limit()


def test_the_command_shows_people_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = saved(tmp_path, "default", "int8")
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    found = inspect_checkpoint(tmp_path)
    assert f"parameters: {found.num_parameters:,}\n" in shown
    assert f"{size_text(found.stored_formats['int8'])} in int8" in shown.partition("parameters")[0]
    assert re.search(rf"  int8 +{re.escape(size_text(found.bytes_in['int8']))}\n", shown)
    need = training_memory(network.config, shapes_of(network), TrainingBatch(4096, 32), "muon")
    assert re.search(rf"with Muon.*\n.*sum +{re.escape(size_text(need.total))}\n", shown, re.DOTALL)
    assert shown.rstrip().endswith("training with Muon fits")  # kilobytes fit anywhere


def test_training_that_does_not_fit_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = saved(tmp_path)
    need = training_memory(network.config, shapes_of(network), TrainingBatch(4096, 32), "adamw")
    monkeypatch.setattr("model.engine.memory_limit.memory_limit", lambda: need.total - 1)
    assert main(["inspect", str(tmp_path)]) == 0
    assert "training with AdamW does not fit: 1 B too much\n" in capsys.readouterr().out


def test_the_newest_checkpoint_of_a_run_is_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step, variation in ((9, "default"), (10, "nothing_tied")):
        network = saved(tmp_path / "checkpoints" / f"step-{step:08d}", variation)
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["num_parameters"]
    assert found == sum(parameter.numel() for parameter in network.parameters())


def test_a_folder_without_a_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 1
    assert "config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 1024, "1.5 MiB"), (2**40, "1024.00 GiB")],
)
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 2**30, id="no cgroups"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, 2**30, id="no limit"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "4096\n"}, 4096, id="version 2"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "8192\n",
                "sys/fs/cgroup/a/memory.max": "4096\n",
                "sys/fs/cgroup/c/memory.max": "1\n",
            },
            4096,
            id="the tightest of the groups above",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/docker-1\n", "sys/fs/cgroup/memory.max": "4096\n"}, 4096, id="inside a container"
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/a\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "4096\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            4096,
            id="version 1",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../a\n", "sys/fs/memory.max": "1\n", "a/memory.max": "1\n"},
            2**30,
            id="outside the namespace",
        ),
    ],
)
def test_memory_is_what_cgroups_allow(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limit_file, "machine_memory", lambda: 2**30)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="ascii")
    assert memory_limit(tmp_path) == expected


def test_a_networks_shapes_take_no_memory() -> None:
    """An embedding table of a terabyte must be describable."""
    shapes = parameter_shapes(ModelConfig(vocab_size=10**9, d_model=256), num_tensors=100)
    assert shapes["source_embedding.weight"] == (10**9, 256)
