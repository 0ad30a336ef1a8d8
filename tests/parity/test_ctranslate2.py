"""The same weights in CTranslate2: what is exported translates there exactly as our own search does here.

The one rule in which the two differ: at the token limit CTranslate2 lets hypotheses that were cut compete with those
that ended, by score; ours puts the cut ones behind. So a beam search that reaches the limit may differ, in that way.
"""

from __future__ import annotations

import functools
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from app.cli import main
from model.checkpoints.checkpoint import Checkpoint, save_checkpoint
from model.checkpoints.ctranslate2_export import export_ctranslate2
from model.checkpoints.network import build_network
from model.config import GenerationConfig
from model.errors import CheckpointError, ConfigurationError
from model.generation.generate import generate
from model.generation.generation_input import GenerationInput
from model.text.loading import load_tokenizer
from model.transformer import Transformer
from tests.unit.network_variations import VARIATIONS, build
from tests.unit.tiny_tokenizer import VOCAB_SIZE, sentences, tiny_tokenizer

ctranslate2: Any = pytest.importorskip("ctranslate2", reason="ctranslate2 is a benchmark extra")

LIMIT = 40
REFUSED = {
    "relative": ["position_type must not be relative, got 'relative'"],
    "head_dim": ["head_dim must be d_model / num_heads, got 5"],
    "t5": ["position_type must not be relative, got 'relative'", "head_dim must be d_model / num_heads, got 6"],
}
LENGTHS = {"max_source_length": 40, "max_target_length": LIMIT}
MARIAN: dict[str, Any] = {
    "norm_position": "post",
    "final_norm": False,
    "sinusoid_layout": "halves",
    "pad_id": VOCAB_SIZE - 1,
    "bos_id": VOCAB_SIZE - 1,
    "eos_id": 0,
    "decoder_start_id": VOCAB_SIZE - 1,
}
M2M100: dict[str, Any] = {
    "sinusoid_layout": "halves_fairseq",
    "position_offset": 2,
    "pad_id": 1,
    "bos_id": 0,
    "eos_id": 2,
    "decoder_start_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "opus-mt": MARIAN | {"activation": "silu"},
    "opus-mt-tiny": MARIAN | {"d_model": 24, "num_heads": 3, "d_ff": 20, "num_decoder_layers": 1},
    "marian-unscaled": MARIAN | {"embedding_scale": 1.0, "activation": "gelu"},
    "marian-two-tables": MARIAN | {"tie_source_target": False},
    "m2m100": M2M100,
    "nllb-deep-encoder": M2M100 | {"num_encoder_layers": 4, "num_decoder_layers": 1, "num_heads": 8},
    "m2m100-unscaled": M2M100 | {"embedding_scale": 1.0, "activation": "gelu"},
    "mbart": {
        "embedding_norm": True,
        "position_type": "learned",
        "position_offset": 2,
        "activation": "gelu",
        "pad_id": 1,
        "bos_id": 0,
        "eos_id": 2,
        "decoder_start_id": 2,
    },
}
"""Shapes of public families, as importing them gives them."""
Scored = tuple[list[int], float]
"""Tokens and score of a hypothesis."""


@functools.cache
def network(variation: str) -> Transformer:
    """Return a random network that ends a target after a few tokens more often than never.

    Public families without a bias on the logits get one all the same, because random networks would not end by
    themselves; and the end token, from which some decoders start, is made less like itself. The shape stays theirs.
    """
    fields = FAMILIES.get(variation, {})
    shape = {**LENGTHS, **fields, "output_bias": True, "vocab_size": VOCAB_SIZE}
    model = build("default" if fields else variation, **shape)
    if fields:
        with torch.no_grad():
            model.target_embedding.weight[model.config.eos_id] *= 0.1
    generator = torch.Generator().manual_seed(1)
    source, target = (torch.randint(VOCAB_SIZE, (40, 12), generator=generator) for _ in range(2))
    with torch.no_grad():
        logits = model(source, target, torch.ones_like(source, dtype=torch.bool)).flatten(0, 1)  # (B * T, V)
        lead = logits.amax(-1) - logits[:, model.config.eos_id]
        model.get_parameter("output_bias")[model.config.eos_id] += lead.quantile(0.4)
    return model


def checkpoint_of(model: Transformer) -> Checkpoint:
    """Return a checkpoint of a network, with the tests' tokeniser."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return Checkpoint(model.config, weights, tiny_tokenizer())


def sources(count: int = 50) -> list[list[int]]:
    """Return random token ids, 1 to 20 of them each, special ones included."""
    draw = random.Random(1)
    return [[draw.randrange(VOCAB_SIZE) for _ in range(draw.randint(1, 20))] for _ in range(count)]


def translate(folder: Path, beam_size: int, compute_type: str = "float32", **options: Any) -> list[Scored]:
    """Return tokens and score of CTranslate2's best hypothesis of each source."""
    pieces = tiny_tokenizer().pieces(range(VOCAB_SIZE))
    ids = {piece: index for index, piece in enumerate(pieces)}
    translator = ctranslate2.Translator(str(folder), compute_type=compute_type, intra_threads=1)
    results = translator.translate_batch(
        [[pieces[token_id] for token_id in source] for source in sources()],
        beam_size=beam_size,
        max_decoding_length=LIMIT,
        min_decoding_length=0,
        max_input_length=0,
        return_scores=True,
        **options,
    )
    return [([ids[piece] for piece in result.hypotheses[0]], result.scores[0]) for result in results]


@pytest.mark.parametrize("variation", [*(name for name in VARIATIONS if name not in REFUSED), *FAMILIES])
def test_an_exported_network_translates_the_same(variation: str, tmp_path: Path) -> None:
    model = network(variation)
    export_ctranslate2(tmp_path / "exported", checkpoint_of(model))
    for beam_size in (1, 4):
        check_equality(model, tmp_path / "exported", beam_size)


def check_equality(model: Transformer, folder: Path, beam_size: int) -> None:
    """Compare the best hypotheses of all sources, and their scores."""
    config = GenerationConfig(beam_size=beam_size, max_new_tokens=LIMIT)
    ours = [hypotheses[0] for hypotheses in generate(model, [GenerationInput(source, config) for source in sources()])]
    theirs = translate(folder, beam_size)
    num_equal = 0
    for mine, (token_ids, score) in zip(ours, theirs, strict=True):
        if list(mine.token_ids) == token_ids:
            # Sums of at most 40 log-probabilities of float32 networks with logits around one.
            assert mine.score == pytest.approx(score, abs=1e-5)
            num_equal += 1
        else:  # nothing else explains it than the one rule
            assert (beam_size, len(token_ids), mine.finish_reason) == (4, LIMIT, "end")
            assert score > mine.score
    assert num_equal == 50 if beam_size == 1 else num_equal >= 15
    assert len({mine.token_ids for mine in ours}) > (1 if beam_size == 4 else 0)


@pytest.mark.parametrize("penalty", [0.0, 0.6])
def test_other_length_penalties_agree(penalty: float, tmp_path: Path) -> None:
    model = network("nothing_tied")
    export_ctranslate2(tmp_path / "exported", checkpoint_of(model))
    config = GenerationConfig(beam_size=4, max_new_tokens=LIMIT, length_penalty=penalty)
    ours = [hypotheses[0] for hypotheses in generate(model, [GenerationInput(source, config) for source in sources()])]
    assert {mine.finish_reason for mine in ours} == {"end"}
    theirs = translate(tmp_path / "exported", 4, length_penalty=penalty)
    assert [list(mine.token_ids) for mine in ours] == [token_ids for token_ids, _ in theirs]


@pytest.mark.parametrize("tied", [True, False])
def test_a_network_without_output_bias_translates_the_same(tied: bool, tmp_path: Path) -> None:
    model = build("default", vocab_size=VOCAB_SIZE, tie_output=tied, tie_source_target=tied, **LENGTHS)
    export_ctranslate2(tmp_path / "exported", checkpoint_of(model))
    config = GenerationConfig(beam_size=1, max_new_tokens=LIMIT)
    ours = generate(model, [GenerationInput(source, config) for source in sources()])
    assert [list(mine[0].token_ids) for mine in ours] == [ids for ids, _ in translate(tmp_path / "exported", 1)]


@pytest.mark.parametrize("variation", ["m2m100", "mbart"])
def test_a_forced_first_token_is_a_target_prefix_there(variation: str, tmp_path: Path) -> None:
    """Language tokens are forced by families of many languages; CTranslate2 takes them as a prefix as well."""
    model = network(variation)
    export_ctranslate2(tmp_path / "exported", checkpoint_of(model))
    prefix = tiny_tokenizer().pieces([5])
    config = GenerationConfig(beam_size=1, max_new_tokens=LIMIT, target_prefix=(5,))
    ours = generate(model, [GenerationInput(source, config) for source in sources()])
    theirs = translate(tmp_path / "exported", 1, target_prefix=[prefix] * len(sources()))
    assert [list(mine[0].token_ids) for mine in ours] == [token_ids[:LIMIT] for token_ids, _ in theirs]
    assert {mine[0].token_ids[0] for mine in ours} == {5}
    assert len({mine[0].token_ids for mine in ours}) > 1


@pytest.mark.parametrize("case", ["opus-mt-many", "m2m100"])
def test_an_imported_model_with_its_tokeniser_translates_the_same(case: str, tmp_path: Path) -> None:
    from tests.parity.test_huggingface_round_trip import original  # needs transformers, the other tests do not

    checkpoint = original(case)
    tokenizer, folder = checkpoint.tokenizer, tmp_path / "exported"
    export_ctranslate2(folder, checkpoint)
    assert load_tokenizer(folder).serialized == tokenizer.serialized
    encoded = [tokenizer.encode_source(text, "en", "fr") for text in sentences()[::97]]
    encoded = [source for source in encoded if len(source) <= checkpoint.config.max_source_length]
    prefix = tokenizer.decoder_prefix("en")
    config = GenerationConfig(beam_size=1, max_new_tokens=16, target_prefix=prefix)
    ours = generate(build_network(checkpoint), [GenerationInput(source, config) for source in encoded])
    translator = ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)
    results = translator.translate_batch(
        [tokenizer.pieces(source) for source in encoded],
        target_prefix=[tokenizer.pieces(prefix)] * len(encoded),
        beam_size=1,
        max_decoding_length=16,
        max_input_length=0,
    )
    assert len(encoded) > 10
    for hypotheses, result in zip(ours, results, strict=True):
        assert tokenizer.pieces(hypotheses[0].token_ids) == result.hypotheses[0][:16]


@pytest.mark.parametrize("variation", REFUSED)
def test_what_ctranslate2_cannot_express_is_refused_by_name(variation: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        export_ctranslate2(tmp_path / "exported", checkpoint_of(network(variation)))
    assert all(problem in str(raised.value) for problem in REFUSED[variation])
    assert not (tmp_path / "exported").exists()


def test_int8_weights_are_smaller_and_run(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(network("default"))
    sizes = {}
    for quantization in ("float32", "int8"):
        export_ctranslate2(tmp_path / quantization, checkpoint, quantization)
        sizes[quantization] = (tmp_path / quantization / "model.bin").stat().st_size
    assert sizes["int8"] < 0.5 * sizes["float32"]
    in_int8 = [token_ids for token_ids, _ in translate(tmp_path / "int8", 1, "int8")]
    assert len(in_int8) == 50
    assert in_int8 != [token_ids for token_ids, _ in translate(tmp_path / "float32", 1)]


def test_the_command_exports_a_model_with_its_tokeniser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoint_of(network("default"))
    save_checkpoint(tmp_path / "model", checkpoint)
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "exported"), "--format", "ctranslate2"]) == 0
    assert f"wrote {tmp_path / 'exported'}: " in capsys.readouterr().out
    assert (tmp_path / "exported" / "tokenizer.model").read_bytes() == checkpoint.tokenizer.serialized
    assert len(translate(tmp_path / "exported", 1)) == 50
    arguments = ["export", str(tmp_path / "model"), str(tmp_path / "small"), "--format", "ctranslate2"]
    assert main([*arguments, "--dtype", "int8"]) == 0
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("small", "exported")]
    assert sizes[0] < 0.5 * sizes[1]
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "other"), "--format", "ctranslate2"]) == 2
    assert "ctranslate2 must be installed (extra 'benchmark')" in capsys.readouterr().err


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x", encoding="utf-8")
    with pytest.raises(CheckpointError, match="must be empty, or not exist"):
        export_ctranslate2(tmp_path, checkpoint_of(network("default")))
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_an_unknown_number_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="quantization must be one of float32, int8"):
        export_ctranslate2(tmp_path / "exported", checkpoint_of(network("default")), "int4")


def test_a_tokeniser_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(build("default"))
    with pytest.raises(CheckpointError, match="the tokeniser has 700 tokens, the network's vocab_size is 29"):
        export_ctranslate2(tmp_path / "exported", checkpoint)
