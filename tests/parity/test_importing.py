"""Checkpoints that `transformers` saved, imported from their folders: tokens, logits and searches are theirs."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoints.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from model.cli import cli, run
from model.config import EngineConfig, GenerationConfig
from model.errors import CheckpointError, ConfigurationError, UnsupportedLanguageError
from model.generation import GenerationInput, generate
from model.importing.hub import find_source
from model.importing.importing import import_checkpoint
from model.transformer import Transformer
from model.translator import Translator
from tests.parity.families import CASES, Family, transformers
from tests.parity.opus_folder import SENTENCES, SHAPE, Exploding, randomized, train, write_opus_folder
from tests.parity.test_transformers_parity import as_ours

MOST_TOKENS = 20


@pytest.fixture(scope="module")
def opus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as OPUS-MT's are: two sentencepiece models, one vocabulary, one direction."""
    return write_opus_folder(tmp_path_factory.mktemp("opus"))


@pytest.fixture(scope="module")
def m2m(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as M2M-100's are: every target begins with its language's token."""
    folder = tmp_path_factory.mktemp("m2m")
    entries = train(folder, "sentencepiece.bpe.model")
    vocabulary = {piece: number for number, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *entries[3:]])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tokenizer = transformers.M2M100Tokenizer(
        str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"), src_lang="fr", tgt_lang="en"
    )
    tokens = [tokenizer.get_lang_token(code) for code in tokenizer.lang_code_to_token]
    settings = {"additional_special_tokens": tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    config = transformers.M2M100Config(
        vocab_size=len(vocabulary) + len(tokens) + 8,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
        scale_embedding=True,
        **SHAPE,
    )
    randomized(transformers.M2M100ForConditionalGeneration(config)).save_pretrained(folder)
    return folder


def theirs(network: Any, sources: Sequence[list[int]], pad_id: int, beams: int, **options: Any) -> list[list[int]]:
    """Return what `transformers` generates, without the start token."""
    longest = max(map(len, sources))
    padded = torch.tensor([[*source, *[pad_id] * (longest - len(source))] for source in sources])
    found = network.generate(
        input_ids=padded,
        attention_mask=torch.tensor([[1] * len(source) + [0] * (longest - len(source)) for source in sources]),
        num_beams=beams,
        early_stopping=beams > 1,  # a search ends with as many hypotheses as beams, as ours does
        do_sample=False,
        max_new_tokens=MOST_TOKENS,
        bad_words_ids=[[pad_id]],
        **options,
    )
    return [row[1:] for row in found.tolist()]


def searched(family: Family, beams: int, forced: tuple[int, ...] = ()) -> tuple[int, int]:
    """Compare the searches on 200 random sources; return how many ended, and how many reached the limit."""
    config, generator = family.config, torch.Generator().manual_seed(beams)
    family.theirs.generation_config.forced_eos_token_id = None
    if hasattr(family.theirs, "final_logits_bias"):
        family.theirs.final_logits_bias[0, config.eos_id] += 2.5  # or hardly a search would end
    ours = as_ours(family, config)
    sources = []
    for _ in range(200):
        length = int(torch.randint(2, 18, (1,), generator=generator))
        drawn = torch.randint(0, config.vocab_size, (length,), generator=generator).tolist()
        sources.append([*(token for token in drawn if token not in (config.pad_id, config.eos_id)), config.eos_id])
    decoding = GenerationConfig(
        beam_size=beams,
        max_new_tokens=MOST_TOKENS,
        banned_tokens=(config.pad_id,),
        target_prefix=forced,
        num_unscored=len(forced),
    )
    options = {"forced_bos_token_id": forced[0]} if forced else {}
    ended = cut = 0
    for start in range(0, len(sources), 25):
        batch = sources[start : start + 25]
        expected = theirs(family.theirs, batch, config.pad_id, beams, **options)
        found = generate(ours, [GenerationInput(source, decoding) for source in batch])
        for row, (best, *_) in zip(expected, found, strict=True):
            their_end = config.eos_id in row
            tokens = tuple(row[: row.index(config.eos_id)] if their_end else row)
            if their_end and best.finish_reason == "end":
                ended += 1
                assert best.token_ids == tokens
            elif not their_end and best.finish_reason == "length":
                cut += 1
                assert best.token_ids == tokens
            # else one of the two prefers a hypothesis that ended to a better one that was cut
    return ended, cut


FORCED: dict[str, tuple[int, ...]] = {"marian": (), "m2m100": (5,), "bart": (), "mbart": (5,), "t5": ()}
"""Families, and the token that every target must begin with."""


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize(("case", "forced"), FORCED.items())
def test_searches_are_theirs(case: str, forced: tuple[int, ...], beams: int) -> None:
    torch.set_num_threads(1)
    ended, cut = searched(CASES[case].build(CASES[case].settings), beams, forced)
    assert ended + cut >= 80


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")  # theirs; without it they do as we do
def test_an_opus_model_translates_as_theirs(opus: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    imported = import_checkpoint(opus)
    save_checkpoint(tmp_path, imported.checkpoint)
    tokenizer = transformers.MarianTokenizer.from_pretrained(opus)
    network = transformers.MarianMTModel.from_pretrained(opus).eval()
    texts = [*SENTENCES[::7], "", "漢字 😀", "deux  espaces", "Le château… L'été !"]
    encoded = [tokenizer(text).input_ids for text in texts]
    ours = load_checkpoint(tmp_path).tokenizer
    assert [ours.encode_source(text, "en") for text in texts] == encoded
    expected = theirs(network, encoded, network.config.pad_token_id, 4)
    options = GenerationConfig(beam_size=4, max_new_tokens=MOST_TOKENS)
    with Translator.load(tmp_path, EngineConfig(dtype="float32", num_threads=1)) as translator:
        assert (translator.source_languages, translator.target_languages) == (("fr",), ("en",))
        words = [(text, row) for text, row in zip(texts, expected, strict=True) if text.isascii() and text]
        for text, row in words:
            if 0 not in row:
                continue
            [segment] = translator.translate(text, "fr", "en", options).segments
            if not any(warning.code == "decoded_again" for warning in segment.warnings):
                assert list(segment.token_ids) == row[: row.index(0)]
                assert segment.text == tokenizer.decode(row, skip_special_tokens=True)
        with pytest.raises(UnsupportedLanguageError, match="target must be one of en"):
            translator.translate("the station", "en", "fr")


def test_m2m_100_has_the_tokens_of_theirs(m2m: Path, tmp_path: Path) -> None:
    imported = import_checkpoint(m2m, name="many")
    tokenizer = transformers.M2M100Tokenizer(
        str(m2m / "vocab.json"), str(m2m / "sentencepiece.bpe.model"), src_lang="fr", tgt_lang="en"
    )
    ours = imported.checkpoint.tokenizer
    texts = [*SENTENCES[::9], "", "漢字 😀", "deux  espaces"]
    assert [ours.encode_source(text, "en", "fr") for text in texts] == [tokenizer(text).input_ids for text in texts]
    assert ours.decoder_prefix("en") == (tokenizer.get_lang_id("en"),)
    assert len(ours.languages) == 100
    save_checkpoint(tmp_path, imported.checkpoint)
    with Translator.load(tmp_path, EngineConfig(dtype="float32", num_threads=1)) as translator:
        limit = GenerationConfig(max_new_tokens=8)
        [segment] = translator.translate("Le voisin regarde la gare.", "fr", "en", limit).segments
        assert segment.token_ids[0] == tokenizer.get_lang_id("en")
        assert "__en__" not in segment.text
        scored = translator.score("Le voisin", "the station", "fr", "en").result()
        assert [token.id for token in scored.tokens] == [*ours.encode_target("the station"), 2]
        found = translator.alternatives("Le voisin", "the", "fr", "en", count=3).result()
        assert all(each.prefix.startswith("the") for each in found.alternatives)
        explained = translator.explain("Le voisin", "the station", "fr", "en").result().explanation
        assert [token.piece for token in explained.source_tokens][:1] == ["__fr__"]


@pytest.mark.parametrize("form", ["one file", "shards", "pickled", "pickled shards", "pickled long ago"])
def test_every_form_of_weights_gives_the_same(opus: Path, tmp_path: Path, form: str) -> None:
    folder = shutil.copytree(opus, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    if form != "one file":
        (folder / "model.safetensors").unlink()
        names = sorted(tensors)
        halves = [names[::2], names[1::2]] if "shards" in form else [names]
        suffix, stem = (".bin", "pytorch_model") if "pickled" in form else (".safetensors", "model")
        table: dict[str, str] = {}
        for number, half in enumerate(halves):
            file = folder / (f"{stem}-{number}{suffix}" if len(halves) > 1 else f"{stem}{suffix}")
            part = {name: tensors[name] for name in half}
            if suffix == ".bin":
                torch.save(part, file, _use_new_zipfile_serialization=form != "pickled long ago")
            else:
                save_file(part, file)
            table |= dict.fromkeys(half, file.name)
        if len(halves) > 1:
            (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": table}), encoding="utf-8")
    network = Transformer(import_checkpoint(folder).checkpoint.config)
    load_weights(network, import_checkpoint(folder).checkpoint.weights)
    expected = import_checkpoint(opus).checkpoint.weights
    assert all(torch.equal(parameter, expected[name]) for name, parameter in network.named_parameters())


def test_the_command_writes_a_model_that_loads(opus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["import", str(opus), str(tmp_path / "out"), "--format", "int8", "--name", "fr-en"]) == 0
    assert "from fr to en" in capsys.readouterr().out
    checkpoint: Checkpoint = load_checkpoint(tmp_path / "out")
    assert (checkpoint.metadata["name"], checkpoint.weight_format) == ("fr-en", "int8")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"[1]", "must hold a JSON object"),
        ("config.json", b'{"model_type": "gpt2"}', "model_type must be one of"),
        ("config.json", b'{"model_type": "marian", "d_model": "wide"}', "d_model must be of type int"),
        ("config.json", b'{"model_type": "marian", "normalize_before": true}', "normalize_before must be False"),
        ("model.safetensors", b"\xff" * 8 + b"{}", "the header must have"),
        ("model.safetensors", b"\x10", "the header must have"),
        ("vocab.json", b'{"a": 7}', "number its entries from 0"),
        ("source.spm", b"no model", "not a sentencepiece model"),
    ],
)
def test_damaged_files_are_refused(opus: Path, tmp_path: Path, file: str, content: bytes, message: str) -> None:
    folder = shutil.copytree(opus, tmp_path / "copy")
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(folder)


@pytest.mark.parametrize("protocol", [2, 4])
def test_no_code_of_a_file_is_run(opus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(opus, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Exploding()}, protocol))
    with pytest.raises(CheckpointError, match="no file of tensors alone"):
        import_checkpoint(folder)
    torch.save({"a": Exploding()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no file of tensors alone"):
        import_checkpoint(folder)
    assert not Path("exploded").exists()


def test_an_index_names_files_of_its_folder_alone(opus: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(opus, tmp_path / "copy")
    shutil.move(folder / "model.safetensors", tmp_path / "model.safetensors")
    table = {"weight_map": {"a": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(CheckpointError, match="must have a plain name"):
        import_checkpoint(folder)


def test_everything_that_is_wrong_is_told_at_once(opus: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(opus, tmp_path / "copy")
    values = json.loads((folder / "config.json").read_text("utf-8"))
    values |= {"decoder_ffn_dim": 32, "normalize_embedding": True, "activation_function": "tanh"}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(folder)
    for name in ("decoder_ffn_dim", "normalize_embedding", "activation_function"):
        assert name in str(caught.value)


def test_a_name_of_the_hub_is_fetched(opus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, list[str]]] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(opus)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert find_source("Helsinki-NLP/opus-mt-fr-en") == opus
    [(name, patterns)] = asked
    assert name == "Helsinki-NLP/opus-mt-fr-en"
    assert not any(pattern.endswith(".bin") for pattern in patterns)


def test_without_a_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(name: str, allow_patterns: list[str]) -> str:
        raise OSError(f"no route to {name} {allow_patterns}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="give their folder"):
        find_source("Helsinki-NLP/opus-mt-fr-en")
    with pytest.raises(ConfigurationError, match="must be a folder, or a name such as"):
        find_source("no/such/folder")
