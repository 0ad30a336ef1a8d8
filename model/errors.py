"""The exceptions that callers may catch; programming mistakes are assertions instead.

DragomanError
├── InvalidRequestError        the caller's input breaks a rule (also a ValueError)
│   ├── InvalidTextError           not a string, lone surrogates, too long
│   ├── InvalidDocumentError       a file that is damaged, unsafe or of an unknown format
│   ├── InvalidOptionError         a generation option out of its range
│   └── UnsupportedLanguageError   a language that no loaded model has
├── ConfigurationError         a setting, recipe or model configuration breaks a rule
├── CheckpointError            weights or tokenizer files that cannot be used
├── CorpusError                training or evaluation data that cannot be used
├── TrainingDivergedError      weights that are no longer finite
└── UnavailableError           the request was fine, the service could not answer it
    ├── OverloadedError            the queue is full; try again later
    ├── DeadlineExceededError      the request's time ran out
    ├── RequestCancelledError      the caller went away
    ├── EngineClosedError          shutting down, or the worker died
    └── DecodingError              the computation itself failed
"""

from __future__ import annotations


class DragomanError(Exception):
    """Root of every exception that this project raises on purpose."""


class InvalidRequestError(DragomanError, ValueError):
    """The caller's input breaks a rule.

    Attributes:
        name: the offending field, as the caller spelt it, such as ``"beam_size"``.
        rule: what the field must satisfy, such as ``"must be between 1 and 64"``.
        value: a short representation of what was received.
    """

    def __init__(self, name: str, rule: str, value: object) -> None:
        self.name = name
        self.rule = rule
        self.value = shorten(value)
        super().__init__(f"{name} {rule}, got {self.value}")


class InvalidTextError(InvalidRequestError):
    """A text that cannot be translated as it is."""


class InvalidDocumentError(InvalidRequestError):
    """A file that is damaged, unsafe, too large or of a format that is not supported."""


class InvalidOptionError(InvalidRequestError):
    """A generation option outside its range, or two options that exclude each other."""


class UnsupportedLanguageError(InvalidRequestError):
    """A language, or a pair of languages, that the loaded models do not have."""


class ConfigurationError(DragomanError, ValueError):
    """A setting, a training recipe or a model configuration breaks a rule."""

    def __init__(self, name: str, rule: str, value: object) -> None:
        self.name = name
        self.rule = rule
        self.value = shorten(value)
        super().__init__(f"{name} {rule}, got {self.value}")


class CheckpointError(DragomanError):
    """Weights, configuration or tokenizer files that are missing, damaged or do not fit together."""


class CorpusError(DragomanError):
    """Training or evaluation data that is missing, damaged or empty after filtering."""


class TrainingDivergedError(DragomanError):
    """A training run's weights are no longer finite; its newest checkpoint is from before."""


class UnavailableError(DragomanError):
    """The request was valid, but the service could not answer it."""


class OverloadedError(UnavailableError):
    """The queue is full.

    Attributes:
        retry_after_seconds: when a new attempt is worth making.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class DeadlineExceededError(UnavailableError):
    """The request's time ran out before its translation was complete."""


class RequestCancelledError(UnavailableError):
    """The request was cancelled by its caller."""


class EngineClosedError(UnavailableError):
    """The engine does not take requests: it is shutting down, or its worker died."""


class DecodingError(UnavailableError):
    """The computation of this request failed; others are not concerned."""


def shorten(value: object, limit: int = 80) -> str:
    """Return ``repr(value)`` cut to ``limit`` characters, so that errors never carry whole documents."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
