"""Text in, text out: the one place that joins text (languages, segments, tokens) and the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, overload

import torch

from model.analysis import (
    DEFAULT_ALTERNATIVES,
    ExplainedTranslation,
    ScoredTranslation,
    WordAlternatives,
    find_alternatives,
    require_two_languages,
    score_translation,
)
from model.checkpoints.checkpoint import Checkpoint, load_checkpoint
from model.checkpoints.network import build_network
from model.config import EngineConfig, GenerationConfig
from model.engine.engine import Engine
from model.engine.stats import EngineObserver, EngineStats
from model.errors import CheckpointError, InvalidTextError, UnsupportedLanguageError
from model.explanation import ExplanationOptions, explain, explainable_source
from model.generation.generate import GenerationInput
from model.generation.quality import Calibration
from model.generation.shortlist import Shortlist
from model.options import TextOptions
from model.pipeline.assembly import Assembly
from model.pipeline.flow import SegmentFlow
from model.pipeline.pending import Flow, PendingTranslation, SegmentObserver
from model.pipeline.preparation import Document, PlainText, PreparedText, prepare, read_document
from model.pipeline.reading import PLACEHOLDERS, Reader
from model.text.languages import Detection, LanguageDetector, resolve
from model.text.tokenizer import PLACEHOLDERS as PLACEHOLDER_CHARACTERS
from model.translation import Translation

PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT_MODEL = "dragoman-fr-en"
"""The embedded model's folder under ``model/pretrained``."""
AUTO = "auto"
"""In place of a source language: detect it."""
_FINISHING_THREADS = 2
"""Threads that check and put together what the engine decoded; they hold the interpreter's lock most of their time."""
_WARM_UP = "Bonjour. Hello."
_WARM_TARGETS = 2
"""Directions that are tried before the first request; further ones find everything loaded."""
_SHAPE = ("d_model", "d_ff", "num_heads", "num_encoder_layers", "num_decoder_layers", "vocab_size")


class Translator:
    """A loaded model with its engine; all methods may be called from any thread.

    Attributes:
        name: the model's name.
        languages: codes that can be source or target.
        source_languages: codes of the languages that texts may be in.
        target_languages: codes of those that they may become.
        fingerprint: digest of the checkpoint: another one for other weights.
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
        network = build_network(checkpoint)
        self.name = str(name or checkpoint.metadata.get("name") or DEFAULT_MODEL)
        self.fingerprint = checkpoint.fingerprint()
        self.tokenizer = checkpoint.tokenizer
        self.languages = self.tokenizer.languages
        self.source_languages = self.tokenizer.source_languages
        self.target_languages = self.tokenizer.target_languages
        self.config = checkpoint.config
        self._detector = LanguageDetector()
        self._network = network
        self._markers = frozenset(map(str, checkpoint.metadata.get("markers") or ()))
        self._calibration = Calibration.from_metadata(checkpoint.metadata)
        self._banned = sorted(self.tokenizer.special_ids - {self.config.eos_id} - self._placeholder_ids())
        shortlist = None
        if checkpoint.shortlist is not None:
            shortlist = Shortlist(checkpoint.shortlist, self.config.vocab_size, self.config.eos_id)
        self._engine = Engine(network, engine, self._banned, shortlist=shortlist, observer=observer)
        one_thread = partial(torch.set_num_threads, 1)
        self._finishing = ThreadPoolExecutor(_FINISHING_THREADS, "dragoman-finishing", one_thread)
        # Of its own, so that nobody's translation waits until something has been explained.
        self._analysis = ThreadPoolExecutor(1, "dragoman-analysis", one_thread)
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
        options: TextOptions | None = None,
        deadline_seconds: float | None = None,
        target_prefix: str | None = None,
        caller: str | None = None,
        on_segment: SegmentObserver | None = None,
    ) -> PendingTranslation:
        """Hand one text to the engine and return at once.

        Args:
            text: any text; its line breaks and outer spaces are kept.
            source: code or alias of its language; None or "auto" detects it.
            target: code or alias of the language to translate to.
            config: how to decode each segment; a target prefix in it is the first segment's.
            options: how the text is read, what must survive in it, and what to report.
            deadline_seconds: time from now after which the work is dropped.
            target_prefix: text that the first segment's translation must begin with.
            caller: whose request it is; callers share the device evenly.
            on_segment: is told of each segment as soon as it is final, from another thread.

        Raises:
            InvalidTextError: not a string, not valid Unicode, or XML that is not well-formed.
            UnsupportedLanguageError: the model does not have a language.
            InvalidRequestError: an option does not fit the model.
            OverloadedError: the queue is full.
            EngineClosedError: the translator was closed.
        """
        options, config = options or TextOptions(), config or GenerationConfig()
        if not isinstance(text, str):
            raise InvalidTextError("text", "must be a string", text)
        target_code = resolve(target, self.target_languages, "target")
        document = read_document(text, options)
        source_code, detected = self._source(document, source, target_code)
        reader = self._reader(source_code, target_code)
        if source_code == target_code:
            prepared = PreparedText(document, (), (), ())
        else:
            prepared = prepare(document, source_code, target_code, options, reader.fits)
        return PendingTranslation(
            list(self._flows(prepared, reader, config, options, target_prefix)),
            lambda inputs, seconds: self._engine.submit_many(inputs, deadline_seconds=seconds, caller=caller),
            Assembly(prepared, source_code, target_code, detected).assemble,
            self._finishing,
            window=max(1, self._engine.config.max_queued_requests // 2),
            deadline_seconds=deadline_seconds,
            on_segment=on_segment,
        )

    @overload
    def translate(
        self,
        texts: str,
        source: str | None = ...,
        target: str = ...,
        config: GenerationConfig | None = ...,
        options: TextOptions | None = ...,
    ) -> Translation: ...

    @overload
    def translate(
        self,
        texts: list[str] | tuple[str, ...],
        source: str | None = ...,
        target: str = ...,
        config: GenerationConfig | None = ...,
        options: TextOptions | None = ...,
    ) -> list[Translation]: ...

    def translate(
        self,
        texts: str | list[str] | tuple[str, ...],
        source: str | None = None,
        target: str = "en",
        config: GenerationConfig | None = None,
        options: TextOptions | None = None,
    ) -> Translation | list[Translation]:
        """Translate one text or many, and wait for the result; arguments and errors as in :meth:`submit`."""
        if isinstance(texts, str):
            return self.submit(texts, source, target, config, options=options).future.result()
        pending: list[PendingTranslation] = []
        try:
            for text in texts:
                self._leave_room(pending)
                pending.append(self.submit(text, source, target, config, options=options))
            return [item.future.result() for item in pending]
        except BaseException:
            for item in pending:
                item.cancel()
            raise

    def score(
        self,
        text: str,
        translation: str,
        source: str | None = None,
        target: str = "en",
        *,
        alignment: bool = False,
        quality: bool = False,
    ) -> Future[ScoredTranslation]:
        """Score a given translation, whoever wrote it; returns at once.

        Args:
            text: the source, scored as one segment, whatever sentences it has.
            translation: the target.
            source: code or alias of the source language; None or "auto" detects it.
            target: code or alias of the target language.
            alignment: whether to align the words.
            quality: whether to estimate the words' quality.

        Raises:
            InvalidOptionError: both languages are the same.
            UnsupportedLanguageError: the model does not have a language.

        The future may raise:
            InvalidTextError: text or translation are longer than the model takes.
        """
        reader, detected = self._read(text, source, target)
        work = partial(score_translation, reader, text, translation, detected, alignment=alignment, quality=quality)
        return self._analysis.submit(work)

    def alternatives(
        self,
        text: str,
        prefix: str,
        source: str | None = None,
        target: str = "en",
        *,
        count: int = DEFAULT_ALTERNATIVES,
    ) -> Future[WordAlternatives]:
        """Find the words that could come next in a translation; returns at once.

        To go on with one of them, hand its prefix to :meth:`submit`.

        Args:
            text: the source, taken as one segment.
            prefix: the translation up to the word in question; empty for the first one.
            source: code or alias of the source language; None or "auto" detects it.
            target: code or alias of the target language.
            count: how many words.

        Raises:
            InvalidOptionError: both languages are the same.
            UnsupportedLanguageError: the model does not have a language.

        The future may raise:
            InvalidTextError: the text is longer than the model takes, or has no words.
            InvalidRequestError: prefix or ``count`` are out of range.
        """
        reader, detected = self._read(text, source, target)
        work = partial(find_alternatives, reader, text, prefix, detected, count=count, banned=self._banned)
        return self._analysis.submit(work)

    def explain(
        self,
        text: str,
        translation: str | None = None,
        source: str | None = None,
        target: str = "en",
        config: GenerationConfig | None = None,
        *,
        options: ExplanationOptions | None = None,
        deadline_seconds: float | None = None,
    ) -> Future[ExplainedTranslation]:
        """Show what the network computes on its way from a short text to its translation; returns at once.

        Args:
            text: the source, taken as one segment.
            translation: the target; None lets the model translate.
            source: code or alias of the source language; None or "auto" detects it.
            target: code or alias of the target language.
            config: how to decode, where the model translates.
            options: what to show.
            deadline_seconds: time from now after which the work is dropped.

        Raises:
            InvalidOptionError: both languages are the same.
            UnsupportedLanguageError: the model does not have a language.

        The future may raise:
            InvalidTextError: the text is too long to be explained.
            InvalidRequestError: the translation is.
            UnavailableError: the engine cannot translate it now.
        """
        reader, detected = self._read(text, source, target)

        def work() -> ExplainedTranslation:
            if translation is None:
                ids = explainable_source(self.tokenizer, self.config, text, reader.target, reader.source)
                begin = reader.decoder_prefix
                own = dataclasses.replace(config or GenerationConfig(), target_prefix=begin, num_unscored=len(begin))
                [request] = self._engine.submit_many([GenerationInput(ids, own)], deadline_seconds=deadline_seconds)
                target_ids: Sequence[int] = request.future.result()[0].token_ids
            else:
                target_ids = [*reader.decoder_prefix, *reader.encode_target(translation)]
            explanation = explain(
                self._network,
                self.tokenizer,
                text,
                reader.target,
                target_ids,
                options,
                source_language=reader.source,
            )
            shape = {name: getattr(self.config, name) for name in _SHAPE}
            return ExplainedTranslation(reader.source, reader.target, detected, shape, explanation)

        return self._analysis.submit(work)

    def detect(self, text: str) -> list[Detection]:
        """Return how likely each language is, best first, or nothing for a text without letters."""
        return self._detector.detect(text, self.source_languages)

    def stats(self) -> EngineStats:
        """Return what the engine has done so far, and does now."""
        return self._engine.stats()

    def warm_up(self) -> None:
        """Translate a few words, so that the first request finds everything loaded."""
        for target in self.target_languages[:_WARM_TARGETS]:
            source = next((code for code in self.source_languages if code != target), target)
            self.translate(_WARM_UP, source, target)

    def close(self, drain: bool = True) -> None:
        """Stop the engine, after the running requests or at once."""
        self._engine.close(drain)
        self._finishing.shutdown(wait=drain)
        self._analysis.shutdown(wait=drain, cancel_futures=not drain)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def _leave_room(self, pending: Sequence[PendingTranslation]) -> None:
        """Before one more of many texts is submitted, wait until they fill no more than half of the queue."""
        limit = self._engine.config.max_queued_requests // 2
        for item in pending:
            if self._engine.stats().queued_requests < limit:
                return
            item.future.result()

    def _placeholder_ids(self) -> set[int]:
        """Return the tokens of placeholders, where the model has learnt to write them."""
        if PLACEHOLDERS not in self._markers:
            return set()
        ids = {i for marker in PLACEHOLDER_CHARACTERS for i in self.tokenizer.encode_target_marked(marker)}
        return ids & self.tokenizer.special_ids

    def _source(self, document: Document, source: str | None, target: str) -> tuple[str, Detection | None]:
        """Return the source language, and the detection where it was left open; a text without letters has none."""
        if source is not None and source != AUTO:
            return resolve(source, self.source_languages, "source"), None
        if len(self.source_languages) > 1 and not {*self.source_languages} & {*self._detector.languages}:
            raise UnsupportedLanguageError(
                "source", "must be given: none of the model's languages can be detected", source
            )
        detections = self.detect("\n".join(unit.text for unit in document.units))
        return (detections[0].language, detections[0]) if detections else (target, None)

    def _read(self, text: str, source: str | None, target: str) -> tuple[Reader, Detection | None]:
        """Return the model's view of the languages of a text that is looked at whole."""
        target_code = resolve(target, self.target_languages, "target")
        source_code, detected = self._source(PlainText(text), source, target_code)
        require_two_languages(source_code, target_code)
        return self._reader(source_code, target_code), detected

    def _reader(self, source: str, target: str) -> Reader:
        return Reader(self._network, self.tokenizer, self._detector, source, target, self._markers, self._calibration)

    def _flows(
        self,
        prepared: PreparedText,
        reader: Reader,
        config: GenerationConfig,
        options: TextOptions,
        target_prefix: str | None,
    ) -> Iterator[Flow]:
        """Yield the segments' flows; the prefix is the first translated segment's."""
        begin = reader.decoder_prefix
        later = dataclasses.replace(config, target_prefix=begin, num_unscored=len(begin))
        is_first = True
        for segment in prepared.segments:
            own = later
            if is_first and segment.translatable:
                is_first = False
                own = dataclasses.replace(later, target_prefix=(*begin, *config.target_prefix))
                if target_prefix:
                    ids = tuple(reader.encode_prefix(target_prefix, segment.pieces()))
                    own = dataclasses.replace(later, target_prefix=ids)
            align = options.alignment or segment.has_inlines
            yield SegmentFlow(segment, reader, own, guard=options.guard, align=align, quality=options.quality).run()
