"""Text in, text out: the one place that joins text (languages, segments, tokens) and the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, overload

from model.checkpoints.checkpoint import Checkpoint, load_checkpoint, load_weights
from model.config import EngineConfig, GenerationConfig
from model.engine.engine import Engine
from model.engine.stats import EngineObserver, EngineStats
from model.errors import CheckpointError, InvalidTextError
from model.generation.generate import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.generation.shortlist import Shortlist
from model.text.languages import Detection, LanguageDetector, resolve
from model.text.segmentation import Segment, is_translatable, join_segments, split_long, split_segments
from model.transformer import Transformer
from model.translation import PendingTranslation, SegmentTranslation, Translation, TranslationWarning

PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT_MODEL = "dragoman-fr-en"
"""The embedded model's folder under ``model/pretrained``."""
AUTO = "auto"
"""In place of a source language: detect it."""
_LOOP_REPEATS = 4
"""A group of tokens this often in a row is a loop, unless the source repeats itself too."""
_WARM_UP = "Bonjour. Hello."


@dataclass(frozen=True)
class _Plan:
    """How one text is translated: its segments, and which of them go through the engine."""

    text: str
    source: str
    target: str
    detected: Detection | None
    segments: Sequence[Segment]
    inputs: Sequence[GenerationInput | None]
    """One a segment; None where there is nothing to translate."""
    warnings: Sequence[TranslationWarning]


class Translator:
    """A loaded model with its engine; all methods may be called from any thread.

    Attributes:
        name: the model's name.
        languages: codes that can be source and target.
        info: facts for people: parameters, number format, device, folder.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        engine: EngineConfig | None = None,
        *,
        name: str | None = None,
        observer: EngineObserver | None = None,
    ) -> None:
        """Build the network of a checkpoint and start its engine.

        Raises:
            CheckpointError: the weights do not fit the network.
            ConfigurationError: the device does not exist.
        """
        network = Transformer(checkpoint.config)
        load_weights(network, checkpoint.weights)
        network.eval()
        self.name = str(name or checkpoint.metadata.get("name") or DEFAULT_MODEL)
        self.tokenizer = checkpoint.tokenizer
        self.languages = self.tokenizer.languages
        self.config = checkpoint.config
        self._detector = LanguageDetector()
        banned = sorted(self.tokenizer.special_ids - {self.config.eos_id})
        shortlist = None
        if checkpoint.shortlist is not None:
            shortlist = Shortlist(checkpoint.shortlist, self.config.vocab_size, self.config.eos_id)
        self._engine = Engine(network, engine, banned, shortlist=shortlist, observer=observer)
        self.info: dict[str, object] = {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "weight_format": checkpoint.weight_format,
            "dtype": self._engine.config.dtype,
            "device": str(next(network.parameters()).device),
            "steps": checkpoint.metadata.get("steps"),
        }

    @classmethod
    def load(
        cls, path: Path | None = None, engine: EngineConfig | None = None, *, observer: EngineObserver | None = None
    ) -> Self:
        """Load a checkpoint folder, by default the embedded model.

        Raises:
            CheckpointError: the folder has no usable model.
            ConfigurationError: the device does not exist.
        """
        folder = PRETRAINED / DEFAULT_MODEL if path is None else Path(path)
        if not folder.is_dir():
            raise CheckpointError(f"the model must be a folder with config.json, got {str(folder)!r}")
        checkpoint = load_checkpoint(folder)
        return cls(checkpoint, engine, name=checkpoint.metadata.get("name") or folder.resolve().name, observer=observer)

    def submit(
        self,
        text: str,
        source: str | None = None,
        target: str = "en",
        config: GenerationConfig | None = None,
        *,
        deadline_seconds: float | None = None,
        target_prefix: str | None = None,
        caller: str | None = None,
    ) -> PendingTranslation[list[Hypothesis]]:
        """Hand one text to the engine and return at once.

        Args:
            text: any text; its line breaks and outer spaces are kept.
            source: code or alias of its language; None or "auto" detects it.
            target: code or alias of the language to translate to.
            config: how to decode each segment; a target prefix in it is the first segment's.
            deadline_seconds: time from now after which the work is dropped.
            target_prefix: text that the first segment's translation must begin with.
            caller: whose request it is; callers share the device evenly.

        Raises:
            InvalidTextError: not a string, or not valid Unicode.
            UnsupportedLanguageError: the model does not have a language.
            InvalidRequestError: an option does not fit the model, or the text has more segments than the queue holds.
            OverloadedError: the queue is full.
            EngineClosedError: the translator was closed.
        """
        plan = self._plan(text, source, target, config or GenerationConfig(), target_prefix)
        inputs = [item for item in plan.inputs if item is not None]
        requests = self._engine.submit_many(inputs, deadline_seconds=deadline_seconds, caller=caller)

        def cancel() -> None:
            for request in requests:
                request.cancel()

        return PendingTranslation(
            [request.future for request in requests], lambda results: self._assemble(plan, results), cancel
        )

    @overload
    def translate(
        self, texts: str, source: str | None = ..., target: str = ..., config: GenerationConfig | None = ...
    ) -> Translation: ...

    @overload
    def translate(
        self,
        texts: list[str] | tuple[str, ...],
        source: str | None = ...,
        target: str = ...,
        config: GenerationConfig | None = ...,
    ) -> list[Translation]: ...

    def translate(
        self,
        texts: str | list[str] | tuple[str, ...],
        source: str | None = None,
        target: str = "en",
        config: GenerationConfig | None = None,
    ) -> Translation | list[Translation]:
        """Translate one text or many, and wait for the result; arguments and errors as in :meth:`submit`."""
        if isinstance(texts, str):
            return self.submit(texts, source, target, config).future.result()
        pending: list[PendingTranslation[list[Hypothesis]]] = []
        try:
            for text in texts:
                self._leave_room(pending)
                pending.append(self.submit(text, source, target, config))
            return [item.future.result() for item in pending]
        except BaseException:
            for item in pending:
                item.cancel()
            raise

    def detect(self, text: str) -> list[Detection]:
        """Return how likely each language is, best first, or nothing for a text without letters."""
        return self._detector.detect(text, self.languages)

    def stats(self) -> EngineStats:
        """Return what the engine has done so far, and does now."""
        return self._engine.stats()

    def warm_up(self) -> None:
        """Translate a few words, so that the first request finds everything loaded."""
        for target in self.languages:
            self.translate(_WARM_UP, next(code for code in (*self.languages, target) if code != target), target)

    def close(self, drain: bool = True) -> None:
        """Stop the engine, after the running requests or at once."""
        self._engine.close(drain)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def _leave_room(self, pending: Sequence[PendingTranslation[list[Hypothesis]]]) -> None:
        """Before one more of many texts is submitted, wait until they fill no more than half of the queue."""
        limit = self._engine.config.max_queued_requests // 2
        for item in pending:
            if self._engine.stats().queued_requests < limit:
                return
            item.future.result()

    def _plan(
        self, text: str, source: str | None, target: str, config: GenerationConfig, target_prefix: str | None
    ) -> _Plan:
        if not isinstance(text, str):
            raise InvalidTextError("text", "must be a string", text)
        target_code = resolve(target, self.languages, "target")
        detected = None
        if source is None or source == AUTO:
            detections = self.detect(text)
            detected = detections[0] if detections else None
            source_code = target_code if detected is None else detected.language
        else:
            source_code = resolve(source, self.languages, "source")
        warnings: list[TranslationWarning] = []
        segments = list(self._segments(text, source_code, target_code, warnings)) if source_code != target_code else []
        prefix = tuple(self.tokenizer.encode_target(target_prefix)) if target_prefix else config.target_prefix
        first, later = (dataclasses.replace(config, target_prefix=ids) for ids in (prefix, ()))
        inputs: list[GenerationInput | None] = []
        for segment in segments:
            if is_translatable(segment.text):
                options = later if any(inputs) else first
                inputs.append(GenerationInput(self.tokenizer.encode_source(segment.text, target_code), options))
            else:
                inputs.append(None)
        return _Plan(text, source_code, target_code, detected, segments, inputs, warnings)

    def _segments(self, text: str, source: str, target: str, warnings: list[TranslationWarning]) -> Iterator[Segment]:
        """Yield sentences, and the pieces of those that the network cannot take whole."""

        def fits(piece: str) -> bool:
            # A piece is cut by characters first, so that a hostile text costs no more than a few passes over it.
            limit = self.config.max_source_length
            return len(piece) <= 16 * limit and len(self.tokenizer.encode_source(piece, target)) <= limit

        for segment in split_segments(text, source):
            if not is_translatable(segment.text) or fits(segment.text):
                yield segment
                continue
            pieces = split_long(segment, fits)
            message = f"a sentence was too long for the model and was translated in {len(pieces)} pieces"
            warnings.append(TranslationWarning("cut", message, segment.start, segment.end))
            yield from pieces

    def _assemble(self, plan: _Plan, results: Sequence[list[Hypothesis]]) -> Translation:
        waiting = iter(results)
        segments: list[SegmentTranslation] = []
        warnings = list(plan.warnings)
        log_prob, target_tokens = 0.0, 0
        for segment, item in zip(plan.segments, plan.inputs, strict=True):
            if item is None:
                segments.append(SegmentTranslation(segment.start, segment.end, segment.text, segment.text, 0.0))
                continue
            hypotheses = next(waiting)
            translated = self._segment(segment, item, hypotheses)
            segments.append(translated)
            warnings.extend(_segment_warnings(translated, item.source_ids))
            log_prob += hypotheses[0].log_prob
            target_tokens += len(hypotheses[0].token_log_probs)
        text = join_segments(plan.text, plan.segments, [segment.text for segment in segments])
        return Translation(
            text=text,
            source=plan.source,
            target=plan.target,
            detected=plan.detected,
            segments=tuple(segments),
            alternatives=tuple(_alternatives(plan, segments, text)),
            score=log_prob / target_tokens if target_tokens else 0.0,
            finish_reason="length" if any(segment.finish_reason == "length" for segment in segments) else "end",
            warnings=tuple(sorted(warnings, key=lambda warning: warning.start)),
            source_tokens=sum(len(item.source_ids) for item in plan.inputs if item is not None),
            target_tokens=target_tokens,
        )

    def _segment(self, segment: Segment, item: GenerationInput, hypotheses: Sequence[Hypothesis]) -> SegmentTranslation:
        best = hypotheses[0]
        return SegmentTranslation(
            start=segment.start,
            end=segment.end,
            source=segment.text,
            text=self.tokenizer.decode(best.token_ids),
            score=best.score,
            token_ids=best.token_ids,
            token_scores=best.token_log_probs if item.config.return_token_scores else (),
            alternatives=tuple(self.tokenizer.decode(hypothesis.token_ids) for hypothesis in hypotheses[1:]),
            finish_reason=best.finish_reason,
        )


def _alternatives(plan: _Plan, segments: Sequence[SegmentTranslation], text: str) -> Iterator[str]:
    """Yield whole texts made of each segment's n-th hypothesis, or its best where it has fewer."""
    seen = {text}
    for index in range(max((len(segment.alternatives) for segment in segments), default=0)):
        texts = [s.alternatives[index] if index < len(s.alternatives) else s.text for s in segments]
        whole = join_segments(plan.text, plan.segments, texts)
        if whole not in seen:
            seen.add(whole)
            yield whole


def _segment_warnings(segment: SegmentTranslation, source_ids: Sequence[int]) -> Iterator[TranslationWarning]:
    """Yield what is wrong with one segment's translation."""
    start, end = segment.start, segment.end
    if not segment.text.strip():
        yield TranslationWarning("empty", "the translation of this part is empty", start, end)
    if segment.finish_reason == "length":
        yield TranslationWarning("length", "the translation of this part reached its token limit", start, end)
    if repeats(segment.token_ids) >= _LOOP_REPEATS > repeats(source_ids):
        yield TranslationWarning("looped", "the translation of this part repeats itself", start, end)


def repeats(token_ids: Sequence[int], longest_group: int = 8) -> int:
    """Return how often the most repeated group of up to ``longest_group`` tokens stands in a row."""
    most = 1 if token_ids else 0
    for size in range(1, longest_group + 1):
        run = 0
        for index in range(size, len(token_ids)):
            run = run + 1 if token_ids[index] == token_ids[index - size] else 0
            most = max(most, 1 + run // size)
    return most
