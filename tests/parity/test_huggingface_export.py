"""What is exported for Hugging Face's transformers, opened by that package: the same logits and the same text."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the package is imported

import pytest
import torch
from safetensors.torch import load_file

from app.cli import main
from model.checkpoints.checkpoint import Checkpoint, save_checkpoint
from model.checkpoints.network import build_network
from model.config import GenerationConfig, ModelConfig
from model.errors import CheckpointError
from model.exporting.huggingface import export_huggingface, reorder_width
from model.exporting.layouts import LAYOUTS, find_layout
from model.generation.generate import generate
from model.generation.generation_input import GenerationInput
from model.importing import bart, t5
from model.importing.importing import read_config
from model.importing.renaming import plan_renaming
from model.text.foreign_tokenizer import ForeignTokenizer, Framing, Specials
from model.text.tokenizer import normalize
from model.transformer import Transformer
from tests.unit.network_variations import build, pad, padded_batch
from tests.unit.tiny_tokenizer import VOCAB_SIZE, sentences, tiny_tokenizer

transformers: Any = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is a dev extra")

BART: dict[str, Any] = {
    "norm_position": "post",
    "final_norm": False,
    "embedding_norm": True,
    "position_type": "learned",
    "position_offset": 2,
    "output_bias": True,
    "max_source_length": 24,
    "max_target_length": 24,
}
T5: dict[str, Any] = {
    "norm_type": "rms",
    "position_type": "relative",
    "relative_num_buckets": 8,
    "relative_max_distance": 12,
    "linear_bias": False,
    "attention_scale": 1.0,
    "embedding_scale": 1.0,
    "output_scale": 16**-0.5,
    "decoder_start_id": 0,
    "bos_id": 0,  # there is no begin token
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("pegasus", {}),
    "ours-with-bias": ("pegasus", {"output_bias": True, "activation": "gelu", "num_decoder_layers": 1}),
    "halves": ("pegasus", {"sinusoid_layout": "halves", "embedding_scale": 1.0}),
    "marian": ("marian", {"norm_position": "post", "final_norm": False, "sinusoid_layout": "halves"}),
    "marian-bias": (
        "marian",
        {
            "norm_position": "post",
            "final_norm": False,
            "sinusoid_layout": "halves",
            "output_bias": True,
            "activation": "silu",
            "pad_id": VOCAB_SIZE - 1,
            "decoder_start_id": VOCAB_SIZE - 1,
            "eos_id": 0,
        },
    ),
    "marian-interleaved": ("marian", {"norm_position": "post", "final_norm": False, "activation": "gelu_tanh"}),
    "marian-two-tables": (
        "marian",
        {"norm_position": "post", "final_norm": False, "sinusoid_layout": "halves", "tie_source_target": False},
    ),
    "m2m100": ("m2m_100", {"sinusoid_layout": "halves_fairseq", "position_offset": 2, "pad_id": 1}),
    "m2m100-gelu": (
        "m2m_100",
        {"sinusoid_layout": "halves_fairseq", "position_offset": 1, "activation": "gelu", "embedding_scale": 1.0},
    ),
    "bart": ("bart", BART | {"activation": "gelu"}),
    "bart-scaled": ("bart", BART | {"embedding_scale": None, "output_bias": False}),
    "mbart": ("mbart", BART | {"norm_position": "pre", "final_norm": True}),
    "t5": ("t5", T5),
    "t5-wide-heads": ("t5", T5 | {"head_dim": 7, "num_heads": 3, "num_encoder_layers": 1}),
    "flan-t5": (
        "t5",
        T5 | {"gated": True, "activation": "gelu_tanh", "tie_output": False, "output_scale": 1.0, "norm_epsilon": 1e-6},
    ),
    "t5-silu": ("t5", T5 | {"gated": True, "activation": "silu"}),
    "t5-relu-gated": ("t5", T5 | {"gated": True}),
}
"""Name of a shape to the layout that it must get, and the fields in which it differs from the default."""
every_shape = pytest.mark.parametrize("shape", SHAPES)


@functools.cache
def checkpoint(shape: str) -> Checkpoint:
    """Return a checkpoint of a random network."""
    network = build("default", **{"vocab_size": VOCAB_SIZE, **SHAPES[shape][1]})
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return Checkpoint(network.config, weights, tiny_tokenizer(), {"name": "tiny"})


def opened(folder: Path) -> Any:
    """Return the network that transformers makes of a folder, which must need and have exactly its weights."""
    theirs, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert {name: list(found) for name, found in report.items() if found} == {}
    return theirs.eval()


@every_shape
def test_transformers_computes_the_same_logits(shape: str, tmp_path: Path) -> None:
    ours = checkpoint(shape)
    layout = export_huggingface(tmp_path / "exported", ours)
    assert layout.name == SHAPES[shape][0]
    assert [each.name for each in LAYOUTS if not each.problems(ours.config)] == [layout.name]
    theirs = opened(tmp_path / "exported")
    assert type(theirs).__name__ == layout.architecture
    network, config = build_network(ours), ours.config
    batch = padded_batch(config)
    mask = batch.source_ids != config.pad_id
    with torch.no_grad():
        expected = network(batch.source_ids, batch.target_input_ids, mask)
        found = theirs(
            input_ids=batch.source_ids, attention_mask=mask.long(), decoder_input_ids=batch.target_input_ids
        ).logits
        encoded = theirs.get_encoder()(input_ids=batch.source_ids, attention_mask=mask.long()).last_hidden_state
    real = batch.target_input_ids != config.pad_id
    real[:, 0] = True  # the start token may be padding
    # Float32 sums of a small network in another order, relative to its largest numbers.
    assert (found - expected)[real].abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    if config.sinusoid_layout != "interleaved" or config.position_type != "sinusoidal":  # else in another order
        ours_encoded = network.encode(batch.source_ids, mask)
        assert (encoded - ours_encoded)[mask].abs().max() <= 1e-5 * max(1.0, float(ours_encoded.detach().abs().max()))


@every_shape
def test_every_weight_is_exported_bit_by_bit(shape: str, tmp_path: Path) -> None:
    """Also where the width is reordered: then each matrix has the same numbers in other places."""
    ours = checkpoint(shape)
    layout = export_huggingface(tmp_path / "exported", ours)
    stored = load_file(tmp_path / "exported" / "model.safetensors")
    reordered = ours.config.position_type == "sinusoidal" and ours.config.sinusoid_layout == "interleaved"
    for name, weight in ours.weights.items():
        found = stored.pop(layout.rename(name, ours.config))
        found = found[0] if name == "output_bias" else found
        if reordered:
            assert torch.equal(found.flatten().sort().values, weight.flatten().sort().values), name
        else:
            assert torch.equal(found, weight), name
    computed = {"final_logits_bias", "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"}
    assert stored.keys() <= computed


IMPORTED = [shape for shape, (layout, _) in SHAPES.items() if layout in (*bart.FAMILIES, *t5.FAMILIES)]
"""Shapes whose layout can be imported as well."""
NOT_IN_A_FILE = {"max_source_length", "max_target_length", "dropout", "attention_dropout"}
"""Fields that a layout has one number for, or none, and that change no result."""
BY_THEIR_VALUE = {"embedding_scale": "token_scale", "attention_scale": "query_scale", "head_dim": "width_per_head"}
"""Fields whose None stands for a number that layouts write out, and the properties with the number."""


@pytest.mark.parametrize("shape", IMPORTED)
def test_importing_what_was_exported_is_the_identity(shape: str, tmp_path: Path) -> None:
    """By the tables of the importer: the same settings, and every weight bit by bit."""
    ours = checkpoint(shape)
    export_huggingface(tmp_path / "exported", ours)
    values = json.loads((tmp_path / "exported" / "config.json").read_text(encoding="utf-8"))
    stored = load_file(tmp_path / "exported" / "model.safetensors")
    config, table, settings = read_config(values, "config.json", stored)
    settings.refuse()
    assert settings.ignored() == []
    expected, weights = ours.config, dict(ours.weights)
    if expected.position_type == "sinusoidal" and expected.sinusoid_layout == "interleaved":
        weights = reorder_width(weights, expected)
        expected = dataclasses.replace(expected, sinusoid_layout="halves")
    if config.output_bias and not expected.output_bias:  # Marian's and BART's relatives always have one
        weights["output_bias"] = torch.zeros(VOCAB_SIZE)
        expected = dataclasses.replace(expected, output_bias=True)
    for field in {each.name for each in dataclasses.fields(ModelConfig)} - NOT_IN_A_FILE:
        compared = BY_THEIR_VALUE.get(field, field)
        assert getattr(config, compared) == getattr(expected, compared), field
    plan = plan_renaming(
        {name: tuple(tensor.shape) for name, tensor in stored.items()},
        {name: tuple(tensor.shape) for name, tensor in weights.items()},
        table,
    )
    assert plan.problems == ()
    for name, sources in plan.sources.items():
        for source in sources:
            assert torch.equal(stored[source].reshape(weights[name].shape), weights[name]), name


@pytest.mark.parametrize("shape", ["ours", "marian-bias", "m2m100", "t5"])
def test_greedy_search_of_transformers_gives_the_same_tokens(shape: str, tmp_path: Path) -> None:
    """With the settings of generation_config.json, which ban what stands for no text."""
    ours = checkpoint(shape)
    export_huggingface(tmp_path / "exported", ours)
    theirs, config = opened(tmp_path / "exported"), ours.config
    generator = torch.Generator().manual_seed(2)
    words = [i for i in range(VOCAB_SIZE) if i != config.pad_id]
    sources = [
        [words[int(i)] for i in torch.randint(len(words), (length,), generator=generator)] for length in range(3, 20)
    ]
    banned = tuple(sorted(tiny_tokenizer().special_ids - {config.eos_id}))
    settings = GenerationConfig(beam_size=1, max_new_tokens=12, banned_tokens=banned)
    expected = [
        until_end(list(hypotheses[0].token_ids), config.eos_id)
        for hypotheses in generate(build_network(ours), [GenerationInput(source, settings) for source in sources])
    ]
    batch = pad(sources, config.pad_id)
    with torch.no_grad():
        rows = theirs.generate(
            batch, attention_mask=(batch != config.pad_id).long(), num_beams=1, max_length=None, max_new_tokens=12
        )
    found = [until_end(row[1:], config.eos_id) for row in rows.tolist()]
    assert found == expected
    assert len({tuple(tokens) for tokens in found}) > 1


def until_end(tokens: list[int], eos_id: int) -> list[int]:
    return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_the_tokeniser_gives_the_same_ids_and_text(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    export_huggingface(tmp_path / "exported", checkpoint("ours"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    texts = [normalize(text) for text in (*sentences()[::97], "Ça, œuf ☕ 漢字 😀", "1998 + 2  espaces", "x")]
    for code in tokenizer.languages:
        for text in texts:
            assert theirs(f">>{code}<< {text}").input_ids == tokenizer.encode_source(text, code)
    for text in texts:
        ids = [*tokenizer.encode_target(text), tokenizer.eos_id]
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    batch = theirs([f">>en<< {text}" for text in texts[:2]], padding=True)
    assert {row.count(tokenizer.pad_id) for row in batch.input_ids} != {0}
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 3, 1)


def foreign(framing: Framing) -> ForeignTokenizer:
    """Return a tokeniser of as many ids as ours, whose pieces have other ids than in their sentencepiece model."""
    ours = tiny_tokenizer()
    pieces = [piece for i, piece in enumerate(ours.pieces(range(VOCAB_SIZE))) if i not in ours.special_ids]
    others = [*framing.source_languages.values()]
    room = VOCAB_SIZE - len(others) - 4
    vocabulary = ["</s>", "<unk>", *reversed(pieces[:room]), *others, "<s>", "<pad>"]
    vocabulary[2:2] = [f"<padding{i}>" for i in range(VOCAB_SIZE - len(vocabulary))]
    specials = Specials(pad="<pad>", unk="<unk>", bos="<s>", eos="</s>")
    return ForeignTokenizer(ours.serialized, None, vocabulary, specials, framing)


def imported(shape: str, tokenizer: ForeignTokenizer) -> Checkpoint:
    """Return a checkpoint whose special ids are the tokeniser's."""
    fields = {**SHAPES[shape][1], "pad_id": VOCAB_SIZE - 1, "bos_id": VOCAB_SIZE - 2, "eos_id": 0}
    network = build("default", **{"vocab_size": VOCAB_SIZE, **fields})
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return Checkpoint(network.config, weights, tokenizer, {"name": "imported"})


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("begin", [(), ("{target}",)])
def test_an_imported_marian_tokeniser_is_one_again(begin: tuple[str, ...], tmp_path: Path) -> None:
    languages = {"fr": ">>fra<<", "en": ">>eng<<"}
    tokenizer = foreign(Framing(languages, languages, source_begin=begin))
    export_huggingface(tmp_path / "exported", imported("marian-bias", tokenizer))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    for text in sentences()[::97]:
        before = f"{languages['fr']} " if begin else ""
        assert theirs(before + text).input_ids == tokenizer.encode_source(text, "fr", "en")
        ids = [*tokenizer.encode_target(text), tokenizer.eos_id]
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    assert (theirs.pad_token_id, theirs.eos_token_id) == (VOCAB_SIZE - 1, 0)
    assert (">>eng<< text" in (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")) == bool(begin)


def test_forced_first_tokens_may_be_generated(tmp_path: Path) -> None:
    """In transformers, a language token that was banned as well as forced would leave no token at all."""
    languages = {"fr": "__fr__", "en": "__en__"}
    framing = Framing(languages, languages, source_begin=("{source}",), target_begin=("{target}",))
    shape = imported("m2m100-gelu", foreign(framing))
    config = dataclasses.replace(shape.config, position_offset=shape.config.pad_id + 1)
    export_huggingface(tmp_path / "exported", dataclasses.replace(shape, config=config))
    text = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "A source is [{source}, pieces, </s>]. Every target begins with [{target}]." in text
    assert "fr is `__fr__`, en is `__en__`" in text
    generation = json.loads((tmp_path / "exported" / "generation_config.json").read_text(encoding="utf-8"))
    ids = {piece: i for i, piece in enumerate(shape.tokenizer.pieces(range(VOCAB_SIZE)))}
    assert not {ids["__fr__"], ids["__en__"]} & {*generation["suppress_tokens"]}
    assert {ids["<pad>"], ids["<unk>"]} <= {*generation["suppress_tokens"]}


def test_the_folder_says_how_it_is_used(tmp_path: Path) -> None:
    export_huggingface(tmp_path / "exported", checkpoint("ours"))
    text = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny\n")
    assert "`>>en<<`, `>>fr<<`" in text
    assert "alternate sine and cosine" in text
    export_huggingface(tmp_path / "halves", checkpoint("halves"))
    assert "alternate" not in (tmp_path / "halves" / "README.md").read_text(encoding="utf-8")


def test_what_no_layout_has_is_refused_with_all_reasons(tmp_path: Path) -> None:
    network = build("default", vocab_size=VOCAB_SIZE, gated=True, norm_type="rms", attention_scale=0.7)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    with pytest.raises(CheckpointError) as caught:
        export_huggingface(tmp_path / "exported", Checkpoint(network.config, weights, tiny_tokenizer()))
    reasons = dict(re.findall(r"as (\w+), ([^;]+)", str(caught.value)))
    assert reasons.keys() == {layout.name for layout in LAYOUTS}
    expected = {
        "marian": ("norm_type must be 'layer', got 'rms'", "gated must be False", "norm_position must be 'post'"),
        "pegasus": ("gated must be False, got True", "attention_scale must be head_dim ** -0.5, got 0.7"),
        "t5": ("position_type must be 'relative'", "linear_bias must be False", "attention_scale must be 1, got 0.7"),
    }
    for layout, problems in expected.items():
        assert [problem for problem in problems if problem not in reasons[layout]] == []
    assert not (tmp_path / "exported").exists()


REFUSED: dict[str, list[dict[str, Any]]] = {
    "ours": [
        {"norm_epsilon": 1e-6},
        {"tie_output": False},
        {"linear_bias": False},
        {"head_dim": 5},
        {"output_scale": 0.5},
    ],
    "marian": [{"position_offset": 1}, {"embedding_scale": 2.0}, {"embedding_norm": True}],
    "m2m100": [{"position_offset": 3}, {"output_bias": True}, {"tie_source_target": False}],
    "bart": [{"position_offset": 0}, {"max_source_length": 30}],
    "t5": [
        {"output_scale": 1.0},
        {"attention_scale": None},
        {"output_bias": True},
        {"gated": True, "activation": "gelu"},
    ],
}


@pytest.mark.parametrize(
    ("shape", "change"), [(shape, change) for shape, changes in REFUSED.items() for change in changes], ids=str
)
def test_each_rule_of_a_layout_refuses_by_itself(shape: str, change: dict[str, Any]) -> None:
    """Each of these fields changes what is computed, and no layout can say so."""
    config = dataclasses.replace(checkpoint(shape).config, **change)
    with pytest.raises(CheckpointError, match=f"as {SHAPES[shape][0]}, {[*change][-1]} "):
        find_layout(config)


def test_every_field_of_the_network_is_looked_at() -> None:
    """A field that is added to ModelConfig must be mapped or refused on purpose: its name must be added here too."""
    mapped = {
        *("vocab_size", "d_model", "d_ff", "num_heads", "head_dim", "num_encoder_layers", "num_decoder_layers"),
        *("max_source_length", "max_target_length", "norm_position", "norm_type", "norm_epsilon", "final_norm"),
        *("embedding_norm", "position_type", "sinusoid_layout", "position_offset", "relative_num_buckets"),
        *("relative_max_distance", "activation", "gated", "linear_bias", "attention_scale", "embedding_scale"),
        *("tie_source_target", "tie_output", "output_bias", "output_scale", "dropout", "attention_dropout"),
        *("pad_id", "bos_id", "eos_id", "decoder_start_id"),
    }
    assert {field.name for field in dataclasses.fields(ModelConfig)} == mapped


def test_the_weights_must_fit(tmp_path: Path) -> None:
    ours = checkpoint("ours")
    weights = dict(ours.weights)
    del weights["encoder.norm.weight"]
    with pytest.raises(CheckpointError, match=r"missing encoder\.norm\.weight"):
        export_huggingface(tmp_path / "exported", dataclasses.replace(ours, weights=weights))
    assert not (tmp_path / "exported").exists()


def test_half_precision_that_overflows_is_refused(tmp_path: Path) -> None:
    ours = checkpoint("ours")
    weights = {**ours.weights, "encoder.norm.bias": torch.full((16,), 1e5)}
    with pytest.raises(CheckpointError, match=r"encoder\.layer_norm\.bias has values that are not finite in float16"):
        export_huggingface(tmp_path / "exported", dataclasses.replace(ours, weights=weights), "float16")


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x", encoding="utf-8")
    for path in (tmp_path, tmp_path / "precious"):
        with pytest.raises(CheckpointError, match="must be empty, or not exist"):
            export_huggingface(path, checkpoint("ours"))
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_the_command_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "model", checkpoint("marian"))
    arguments = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", "huggingface"]
    assert main([*arguments, "--dtype", "bfloat16", "--name", "mine"]) == 0
    shown = capsys.readouterr().out
    assert "layout: MarianMTModel\n" in shown
    assert f"wrote {tmp_path / 'out'}: " in shown
    description = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert (description["model_type"], description["dtype"]) == ("marian", "bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8").startswith("# mine\n")
    assert opened(tmp_path / "out").dtype == torch.bfloat16
    for extra, message in (
        (["--dtype", "int8"], "--dtype must be one of float32, bfloat16, float16 for huggingface, got 'int8'"),
        (
            ["--format", "int8", "--dtype", "float16"],
            "--dtype needs --format ctranslate2 or huggingface, got 'float16'",
        ),
    ):
        assert main([*arguments, *extra]) == 2
        assert message in capsys.readouterr().err


def test_networks_stay_as_they_are(tmp_path: Path) -> None:
    ours = checkpoint("ours")
    before = {name: weight.clone() for name, weight in ours.weights.items()}
    export_huggingface(tmp_path / "exported", ours)
    assert all(torch.equal(before[name], weight) for name, weight in ours.weights.items())
    assert isinstance(build_network(ours), Transformer)
