"""Imported, exported for Hugging Face and imported again: the same network, the same weights, the same tokeniser."""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import pytest
import sentencepiece
from safetensors.torch import load_file, save_file

from app.cli import main
from model.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.checkpoints.network import build_network
from model.errors import CheckpointError
from model.exporting.huggingface import export_huggingface
from model.importing.importing import import_checkpoint
from model.inspect_command import inspect_folder
from model.text.foreign_tokenizer import ForeignTokenizer, Framing, Specials
from tests.parity.opus_folder import write_opus_folder
from tests.parity.test_native_marian import native_folder
from tests.unit.network_variations import build
from tests.unit.tiny_tokenizer import sentences

transformers: Any = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is a dev extra")

LANGUAGES = ("fr", "en")
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
MARIAN: dict[str, Any] = {
    "norm_position": "post",
    "final_norm": False,
    "sinusoid_layout": "halves",
    "output_bias": True,
}
MBART: dict[str, Any] = {
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
}


@functools.cache
def sentencepiece_model(options: tuple[tuple[str, Any], ...] = ()) -> bytes:
    """Return a small model as these families have it: without the special tokens of ours."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=itertools.islice(sentences(), 0, None, 7),
        model_writer=model,
        num_threads=1,
        minloglevel=2,
        **{"model_type": "unigram", "vocab_size": 200, **dict(options)},
    )
    return model.getvalue()


def entries(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    return [processor.IdToPiece(number) for number in range(processor.GetPieceSize())]


def opus_mt(tokens: dict[str, str]) -> ForeignTokenizer:
    """Two models, one vocabulary in an order of its own, padding last."""
    source, target = sentencepiece_model(), sentencepiece_model((("vocab_size", 190),))
    pieces = sorted({*entries(source), *entries(target)} - {"<s>", "</s>", "<unk>"})
    vocabulary = ["</s>", "<unk>", *pieces, *filter(None, tokens.values()), "<pad>"]
    framing = Framing({"fr": "", "en": ""}, tokens, source_begin=("{target}",) if any(tokens.values()) else ())
    specials = Specials("<pad>", "<unk>", "</s>", "</s>", tuple(filter(None, tokens.values())))
    return ForeignTokenizer(source, target, vocabulary, specials, framing)


def m2m100(tokens: dict[str, str] | None = None) -> ForeignTokenizer:
    """A vocabulary that is not sentencepiece's, then the languages, then words that nobody uses."""
    model = sentencepiece_model()
    tokens = tokens or {code: f"__{code}__" for code in LANGUAGES}
    vocabulary = [*FAIRSEQ, *reversed(entries(model)[3:]), *tokens.values()]
    filling = tuple(f"<unused_{number}>" for number in range(len(vocabulary), len(vocabulary) + 3))
    framing = Framing(tokens, tokens, source_begin=("{source}",), target_begin=("{target}",))
    specials = Specials("<pad>", "<unk>", "<s>", "</s>", (*tokens.values(), *filling))
    return ForeignTokenizer(model, None, [*vocabulary, *filling], specials, framing)


def nllb(tokens: dict[str, str] | None = None, kind: str = "bpe") -> ForeignTokenizer:
    """Sentencepiece's entries one place later, the languages, the mask."""
    model = sentencepiece_model((("model_type", kind),))
    tokens = tokens or {"fr": "fra_Latn", "en": "eng_Latn"}
    framing = Framing(tokens, tokens, source_begin=("{source}",), target_begin=("{target}",))
    specials = Specials("<pad>", "<unk>", "<s>", "</s>", ("<mask>", *tokens.values()))
    vocabulary = [*FAIRSEQ, *entries(model)[3:], *tokens.values(), "<mask>"]
    return ForeignTokenizer(model, None, vocabulary, specials, framing)


def madlad() -> ForeignTokenizer:
    """T5's entries, with tokens that ask for the language of the target."""
    tokens = {code: f"<2{code}>" for code in LANGUAGES}
    options = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "user_defined_symbols": ",".join(tokens.values())}
    model = sentencepiece_model(tuple(options.items()))
    extra = tuple(f"<extra_id_{number}>" for number in (2, 1, 0))
    framing = Framing(dict.fromkeys(LANGUAGES, ""), tokens, source_begin=("{target}",))
    specials = Specials("<pad>", "<unk>", "<pad>", "</s>", (*extra, *tokens.values()))
    return ForeignTokenizer(model, None, [*entries(model), *extra], specials, framing)


CASES: dict[str, tuple[dict[str, Any], Callable[[], ForeignTokenizer]]] = {
    "opus-mt": (MARIAN, lambda: opus_mt({"en": ""})),
    "opus-mt-many": (MARIAN | {"activation": "silu"}, lambda: opus_mt({"fr": ">>fra<<", "en": ">>eng<<"})),
    "m2m100": ({"sinusoid_layout": "halves_fairseq", "position_offset": 2}, m2m100),
    "nllb": ({"sinusoid_layout": "halves_fairseq", "position_offset": 2, "num_decoder_layers": 1}, nllb),
    "mbart50": (MBART | {"activation": "gelu"}, nllb),
    "madlad": (T5 | {"gated": True, "activation": "gelu_tanh", "tie_output": False, "output_scale": 1.0}, madlad),
    "t5": (T5, madlad),
}
FAMILIES = {"opus-mt-many": "marian", "opus-mt": "marian", "nllb": "m2m_100", "m2m100": "m2m_100", "mbart50": "mbart"}


def original(case: str, tokenizer: ForeignTokenizer | None = None) -> Checkpoint:
    """Return a random network with the tokeniser of a family, or this one."""
    fields, make = CASES[case]
    tokenizer = tokenizer or make()
    ids = {"pad_id": tokenizer.pad_id, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    start = tokenizer.pad_id if fields.keys() & {"norm_type"} or "post" in fields.values() else tokenizer.eos_id
    network = build("default", vocab_size=tokenizer.vocab_size, **ids, decoder_start_id=start, **fields)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return Checkpoint(network.config, weights, tokenizer, {"name": "model"})


def public(case: str) -> tuple[ForeignTokenizer, str]:
    """Return a tokeniser with all languages of the public checkpoints, and the code of one of them."""
    models = transformers.models
    if case == "m2m100":
        codes = models.m2m_100.tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]
        return m2m100({code: f"__{code}__" for code in codes}), "fr"
    if case == "mbart50":
        codes = models.mbart50.tokenization_mbart50.FAIRSEQ_LANGUAGE_CODES
        return nllb({code: code for code in codes}, "unigram"), "fr_XX"
    if case == "nllb":
        return nllb({code: code for code in models.nllb.tokenization_nllb.FAIRSEQ_LANGUAGE_CODES}), "fra_Latn"
    return madlad(), "en"


@pytest.mark.parametrize("case", ["m2m100", "nllb", "mbart50", "madlad"])
def test_the_familys_own_class_gives_the_same_ids(case: str, tmp_path: Path) -> None:
    tokenizer, code = public(case)
    export_huggingface(tmp_path / "exported", original(case, tokenizer))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    if case != "madlad":
        theirs.src_lang = code
    for text in sentences()[::101]:
        before = "<2en> " if case == "madlad" else ""
        assert theirs(before + text).input_ids == tokenizer.encode_source(text, code, code), text
    readme = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert f"`{type(theirs).__name__}`" in readme


@pytest.mark.parametrize("case", CASES)
def test_importing_what_was_exported_changes_nothing(case: str, tmp_path: Path) -> None:
    first = original(case)
    export_huggingface(tmp_path / "first", first)
    imported = import_checkpoint(tmp_path / "first", name="model").checkpoint
    assert imported.tokenizer.pieces(range(first.config.vocab_size)) == first.tokenizer.pieces(
        range(first.config.vocab_size)
    )
    for text in sentences()[::211]:
        assert imported.tokenizer.encode_source(text, "en", "fr") == first.tokenizer.encode_source(text, "en", "fr")
    assert imported.tokenizer.decoder_prefix("en") == first.tokenizer.decoder_prefix("en")
    export_huggingface(tmp_path / "second", imported)
    again = import_checkpoint(tmp_path / "second", name="model").checkpoint
    assert again.fingerprint() == imported.fingerprint()  # network, metadata, tokeniser and every weight
    assert again.tokenizer.serialized == imported.tokenizer.serialized


@pytest.mark.parametrize("case", CASES)
def test_inspecting_before_the_import_states_what_is_imported(case: str, tmp_path: Path) -> None:
    export_huggingface(tmp_path / "theirs", original(case))
    found = inspect_folder(tmp_path / "theirs")
    imported = import_checkpoint(tmp_path / "theirs").checkpoint
    assert found.config == imported.config
    assert found.family == FAMILIES.get(case, "t5")
    assert found.num_parameters == sum(weight.numel() for weight in imported.weights.values())
    languages = (found.source_languages, found.target_languages)
    assert languages == (imported.tokenizer.source_languages, imported.tokenizer.target_languages)
    save_checkpoint(tmp_path / "ours", imported)
    own = inspect_folder(tmp_path / "ours")
    for field in ("config", "family", "parameters", "bytes_in", "cache_bytes"):
        assert getattr(own, field) == getattr(found, field)
    assert (own.source_languages, own.target_languages) == languages


@pytest.mark.parametrize("weight_format", ["float32", "int8"])
def test_an_import_in_a_number_format_is_inspected_and_loaded(
    weight_format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_huggingface(tmp_path / "theirs", original("nllb"))
    assert main(["import", str(tmp_path / "theirs"), str(tmp_path / "ours"), "--format", weight_format]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "ours"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["family"] == "m2m_100"
    assert sum(facts["stored_formats"].values()) == facts["bytes_in"][weight_format]
    assert set(facts["stored_formats"]) == ({"int8", "scales", "float32"} if weight_format == "int8" else {"float32"})
    loaded = load_checkpoint(tmp_path / "ours")
    assert sum(parameter.numel() for parameter in build_network(loaded).parameters()) == facts["num_parameters"]


def test_marians_own_form_is_inspected_without_naming_its_languages(tmp_path: Path) -> None:
    opus = tmp_path / "opus"
    opus.mkdir()
    folder = native_folder(write_opus_folder(opus), tmp_path / "native")
    found = inspect_folder(folder)
    imported = import_checkpoint(folder, source_language="fr", target_language="en").checkpoint
    assert (found.family, found.config) == ("marian", imported.config)
    assert found.num_parameters == sum(weight.numel() for weight in imported.weights.values())
    assert (found.source_languages, found.target_languages) == ((), ())


def test_inspecting_tells_why_an_import_would_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_huggingface(tmp_path / "theirs", original("nllb"))
    file = tmp_path / "theirs" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.encoder.layer_norm.weight"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.weight"):
        inspect_folder(tmp_path / "theirs")
    assert main(["inspect", str(tmp_path / "theirs")]) == 1
    assert "encoder.norm.weight" in capsys.readouterr().err
