"""The Translator around a stand-in engine that answers each request with its own source tokens.

So a translation must be the text itself (after the tokeniser's normalisation), and every span, gap and warning can be
known without a trained network. The real network is behind the golden and the service tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

import model.translator as translator_module
from model.checkpoints.checkpoint import Checkpoint
from model.config import EngineConfig, GenerationConfig, ModelConfig
from model.engine.stats import EngineStats
from model.errors import (
    InvalidTextError,
    OverloadedError,
    RequestCancelledError,
    UnsupportedLanguageError,
)
from model.generation.generate import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.text.tokenizer import Tokenizer, train_tokenizer
from model.transformer import Transformer
from model.translator import Translator

MAX_SOURCE_LENGTH = 24
VOCAB_SIZE = 352  # what so few words can fill, besides 256 bytes and the special tokens

Answer = Callable[[GenerationInput], list[Hypothesis]]


class EchoRequest:
    """A request that is answered when the engine says so."""

    def __init__(self, item: GenerationInput) -> None:
        self.item = item
        self.future: Future[list[Hypothesis]] = Future()
        self.cancelled = False

    def cancel(self) -> bool:
        """Remember it, as the real one's worker would."""
        self.cancelled = True
        return True


class EchoEngine:
    """Stands in for the engine: answers at once, or holds the requests until told."""

    def __init__(
        self, network: Transformer, config: EngineConfig | None, always_banned: Sequence[int], **_: object
    ) -> None:
        self.config = config or EngineConfig()
        self.always_banned = always_banned
        self.network = network
        self.answer: Answer = lambda item: [echo(item.source_ids[1:-1])]
        self.hold = False
        self.requests: list[EchoRequest] = []
        self.deadlines: list[float | None] = []
        self.error: Exception | None = None
        self.closed: list[bool] = []

    def submit_many(
        self, items: Sequence[GenerationInput], *, deadline_seconds: float | None, caller: str | None
    ) -> list[EchoRequest]:
        assert caller is None
        if self.error is not None:
            raise self.error
        requests = [EchoRequest(item) for item in items]
        self.requests += requests
        self.deadlines.append(deadline_seconds)
        if not self.hold:
            for request in requests:
                request.future.set_result(self.answer(request.item))
        return requests

    def stats(self) -> EngineStats:
        return EngineStats()

    def close(self, drain: bool) -> None:
        self.closed.append(drain)


def echo(token_ids: Sequence[int], finish_reason: str = "end", score: float = -0.5) -> Hypothesis:
    """Return a hypothesis of the given tokens, each with log-probability -0.5."""
    scores = (-0.5,) * (len(token_ids) + (finish_reason == "end"))
    reason = "end" if finish_reason == "end" else "length"
    return Hypothesis(tuple(token_ids), score, sum(scores), scores, reason)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Return a tokeniser trained on sentences made of a few words."""
    words = "le la un une chat chien mange regarde maison jardin the a cat dog eats watches house garden and et".split()  # noqa: SIM905  (easier to read)
    sentences = [f"{a.capitalize()} {b} {c}." for a in words for b in words for c in words if len({a, b, c}) == 3]
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(sentences, path, vocab_size=VOCAB_SIZE)


@pytest.fixture
def translator(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Translator:
    """Return a translator whose engine echoes."""
    monkeypatch.setattr(translator_module, "Engine", EchoEngine)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=16,
        d_ff=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        max_source_length=MAX_SOURCE_LENGTH,
    )
    torch.manual_seed(0)
    weights = dict(Transformer(config).named_parameters())
    return Translator(Checkpoint(config, weights, tokenizer, {"name": "echo", "steps": 3}))


def engine_of(translator: Translator) -> EchoEngine:
    """Return the stand-in behind a translator."""
    engine = translator._engine
    assert isinstance(engine, EchoEngine)
    return engine


def test_everything_between_segments_is_kept(translator: Translator) -> None:
    text = "  Le chat mange.  La maison !\r\n\r\n\tUn chien\u00a0? 12.5 \n"
    result = translator.translate(text, "fr", "en")
    # The echo goes through the tokeniser, which turns the no-break space inside a segment into a plain one.
    assert result.text == text.replace("\u00a0", " ")
    assert [segment.source for segment in result.segments] == [
        text[segment.start : segment.end] for segment in result.segments
    ]
    assert [s.text for s in result.segments if s.token_ids] == ["Le chat mange.", "La maison !", "Un chien ?"]


def test_source_starts_with_the_target_language_and_ends_with_the_end_token(translator: Translator) -> None:
    translator.translate("Le chat mange.", "fr", "en")
    translator.translate("The cat eats.", "en", "fr")
    first, second = (request.item.source_ids for request in engine_of(translator).requests)
    assert translator.tokenizer.pieces([first[0], second[0]]) == ["<2en>", "<2fr>"]
    assert first[-1] == second[-1] == translator.tokenizer.eos_id


def test_special_tokens_are_never_generated(translator: Translator) -> None:
    banned = set(engine_of(translator).always_banned)
    tokenizer = translator.tokenizer
    languages = {
        number for number in range(tokenizer.vocab_size) if tokenizer.pieces([number])[0] in ("<2en>", "<2fr>")
    }
    assert len(languages) == 2
    assert {tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, *languages} <= banned
    assert tokenizer.eos_id not in banned


@pytest.mark.parametrize("text", ["", "   ", "12 345,6", "\n\n", "🙂 !", "..."])
def test_text_without_letters_needs_no_engine(translator: Translator, text: str) -> None:
    result = translator.translate(text, "fr", "en")
    assert result.text == text
    assert not engine_of(translator).requests
    assert (result.score, result.source_tokens, result.target_tokens) == (0.0, 0, 0)


def test_same_language_returns_the_text(translator: Translator) -> None:
    result = translator.translate("Le chat\u00a0mange.", "fr", "fr")
    assert result.text == "Le chat\u00a0mange."
    assert not engine_of(translator).requests


def test_aliases_are_resolved_and_reported_as_codes(translator: Translator) -> None:
    result = translator.translate("Le chat mange.", "fra_Latn", "English")
    assert (result.source, result.target, result.detected) == ("fr", "en", None)


@pytest.mark.parametrize("source", [None, "auto"])
def test_detected_language_is_reported(translator: Translator, source: str | None) -> None:
    result = translator.translate("Le chien regarde la maison et le jardin.", source, "en")
    assert result.source == "fr"
    assert result.detected is not None
    assert result.detected == translator.detect("Le chien regarde la maison et le jardin.")[0]


def test_unknown_language_names_the_field_and_the_choices(translator: Translator) -> None:
    with pytest.raises(UnsupportedLanguageError, match=r"target .*en.*fr.*'zz'"):
        translator.translate("Le chat", "fr", "zz")
    with pytest.raises(UnsupportedLanguageError, match="source "):
        translator.translate("Le chat", "zz", "en")


@pytest.mark.parametrize("text", [7, b"chat", None])
def test_what_is_no_text_is_refused(translator: Translator, text: object) -> None:
    with pytest.raises(InvalidTextError, match="must be a string"):
        translator.submit(text, "fr", "en")  # type: ignore[arg-type]


def test_lone_surrogates_are_refused(translator: Translator) -> None:
    with pytest.raises(InvalidTextError, match="surrogates"):
        translator.translate("Le chat \ud800 mange.", "fr", "en")


def test_long_sentence_is_cut_reported_and_complete(translator: Translator) -> None:
    text = "Le chat regarde la maison, " * 40 + "et le chien mange."
    result = translator.translate(text, "fr", "en")
    assert result.text == text
    assert [warning.code for warning in result.warnings if warning.code == "cut"] == ["cut"]
    assert (result.warnings[0].start, result.warnings[0].end) == (0, len(text))
    lengths = [len(request.item.source_ids) for request in engine_of(translator).requests]
    assert len(lengths) > 10
    assert max(lengths) <= MAX_SOURCE_LENGTH


def test_one_letter_200_000_times_is_complete(translator: Translator) -> None:
    text = "a" * 200_000
    assert translator.translate(text, "fr", "en").text == text


def test_prefix_is_the_first_segments_alone(translator: Translator) -> None:
    pending = translator.submit("12. Le chat. La maison.", "fr", "en", target_prefix="The cat")
    pending.future.result()
    prefixes = [request.item.config.target_prefix for request in engine_of(translator).requests]
    assert prefixes == [tuple(translator.tokenizer.encode_target("The cat")), ()]


def test_scores_tokens_and_usage(translator: Translator) -> None:
    config = GenerationConfig(return_token_scores=True)
    result = translator.translate("Le chat mange. La maison.", "fr", "en", config)
    tokens = [len(segment.token_ids) for segment in result.segments]
    assert [len(segment.token_scores) for segment in result.segments] == [count + 1 for count in tokens]
    assert result.target_tokens == sum(tokens) + 2
    assert result.source_tokens == sum(tokens) + 4
    assert result.score == pytest.approx(-0.5)
    without = translator.translate("Le chat mange.", "fr", "en")
    assert without.segments[0].token_scores == ()


def test_alternatives_join_the_segments_and_are_unique(translator: Translator) -> None:
    def answer(item: GenerationInput) -> list[Hypothesis]:
        ids = item.source_ids[1:-1]
        if len(ids) > 4:
            return [echo(ids), echo(ids, score=-1.0), echo(translator.tokenizer.encode_target("The dog."))]
        return [echo(ids)]

    engine_of(translator).answer = answer
    result = translator.translate("Le chat mange le jardin et la maison.\nUn chien.", "fr", "en")
    # The second hypothesis equals the first and is not repeated; the short segment has one hypothesis only.
    assert result.alternatives == ("The dog.\nUn chien.",)
    assert result.segments[0].alternatives == ("The dog.",)


def test_token_limit_loop_and_empty_output_are_reported(translator: Translator) -> None:
    tokenizer = translator.tokenizer
    outputs = {
        "Le chat.": echo(tokenizer.encode_target("Le chat."), "length"),
        "Le chien.": echo(tokenizer.encode_target("the dog and the dog and the dog and the dog and the dog and")),
        "La maison.": echo(()),
        "Le jardin.": echo(tokenizer.encode_target("The garden.")),
    }
    engine_of(translator).answer = lambda item: [outputs[tokenizer.decode(item.source_ids)]]
    text = "\n".join(outputs)
    result = translator.translate(text, "fr", "en")
    found = {(w.code, text[w.start : w.end]) for w in result.warnings}
    assert found >= {("length", "Le chat."), ("looped", "Le chien."), ("empty", "La maison.")}
    assert not any(part == "Le jardin." for _, part in found)
    assert result.finish_reason == "length"


def test_repetition_that_the_source_has_too_is_no_loop(translator: Translator) -> None:
    result = translator.translate("chat chat chat chat chat chat chat", "fr", "en")
    assert "looped" not in {warning.code for warning in result.warnings}


def test_cancel_reaches_every_segment_and_the_caller(translator: Translator) -> None:
    engine = engine_of(translator)
    engine.hold = True
    pending = translator.submit("Le chat. La maison.", "fr", "en", deadline_seconds=2.5)
    pending.cancel()
    assert [request.cancelled for request in engine.requests] == [True, True]
    [left] = engine.deadlines
    assert left is not None
    assert 0 < left <= 2.5
    with pytest.raises(RequestCancelledError):
        pending.future.result(timeout=0)


def test_cancelling_the_future_cancels_the_work(translator: Translator) -> None:
    engine = engine_of(translator)
    engine.hold = True
    pending = translator.submit("Le chat. La maison.", "fr", "en")
    assert pending.future.cancel()
    assert all(request.cancelled for request in engine.requests)


def test_error_of_one_segment_is_the_texts_and_ends_the_others(translator: Translator) -> None:
    engine = engine_of(translator)
    engine.hold = True
    pending = translator.submit("Le chat. La maison.", "fr", "en")
    engine.requests[1].future.set_exception(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        pending.future.result(timeout=0)
    assert engine.requests[0].cancelled
    engine.requests[0].future.set_result([echo((5,))])  # a late result changes nothing


def test_refused_text_cancels_what_was_submitted_before(translator: Translator) -> None:
    engine = engine_of(translator)
    engine.hold = True
    with pytest.raises(InvalidTextError):
        translator.translate(["Le chat.", "\ud800a"], "fr", "en")
    assert [request.cancelled for request in engine.requests] == [True]


def test_overload_is_passed_on(translator: Translator) -> None:
    engine_of(translator).error = OverloadedError("full", 1.5)
    with pytest.raises(OverloadedError):
        translator.submit("Le chat.", "fr", "en")


def test_warm_up_and_close(translator: Translator) -> None:
    with translator:
        translator.warm_up()
        targets = {request.item.source_ids[0] for request in engine_of(translator).requests}
        assert set(translator.tokenizer.pieces(list(targets))) == {"<2en>", "<2fr>"}
    assert engine_of(translator).closed == [True]
