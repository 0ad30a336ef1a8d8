"""The public names of the translation engine; importing this imports no torch until a name that needs it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.analysis import ExplainedTranslation as ExplainedTranslation
    from model.analysis import ScoredTranslation as ScoredTranslation
    from model.analysis import WordAlternatives as WordAlternatives
    from model.checkpoints.inspection import inspect_checkpoint as inspect_checkpoint
    from model.config import EngineConfig as EngineConfig
    from model.config import GenerationConfig as GenerationConfig
    from model.config import ModelConfig as ModelConfig
    from model.documents.document import Document as Document
    from model.documents.document import DocumentLimits as DocumentLimits
    from model.documents.document import DocumentText as DocumentText
    from model.documents.formats import DOCUMENT_FORMATS as DOCUMENT_FORMATS
    from model.documents.formats import open_document as open_document
    from model.engine.stats import EngineObserver as EngineObserver
    from model.engine.stats import EngineStats as EngineStats
    from model.errors import CheckpointError as CheckpointError
    from model.errors import ConfigurationError as ConfigurationError
    from model.errors import CorpusError as CorpusError
    from model.errors import DeadlineExceededError as DeadlineExceededError
    from model.errors import DecodingError as DecodingError
    from model.errors import DragomanError as DragomanError
    from model.errors import EngineClosedError as EngineClosedError
    from model.errors import InvalidDocumentError as InvalidDocumentError
    from model.errors import InvalidOptionError as InvalidOptionError
    from model.errors import InvalidRequestError as InvalidRequestError
    from model.errors import InvalidTextError as InvalidTextError
    from model.errors import OverloadedError as OverloadedError
    from model.errors import RequestCancelledError as RequestCancelledError
    from model.errors import TrainingDivergedError as TrainingDivergedError
    from model.errors import UnavailableError as UnavailableError
    from model.errors import UnsupportedLanguageError as UnsupportedLanguageError
    from model.explanation import Explanation as Explanation
    from model.explanation import ExplanationOptions as ExplanationOptions
    from model.options import TextOptions as TextOptions
    from model.pipeline.pending import PendingTranslation as PendingTranslation
    from model.text.alignment import WordAlignment as WordAlignment
    from model.text.glossary import Glossary as Glossary
    from model.text.glossary import GlossaryHit as GlossaryHit
    from model.text.glossary import match_terms as match_terms
    from model.text.languages import Detection as Detection
    from model.text.languages import Language as Language
    from model.text.languages import LanguageDetector as LanguageDetector
    from model.text.languages import language as language
    from model.text.languages import resolve as resolve
    from model.text.markup.options import MarkupOptions as MarkupOptions
    from model.text.protection import MAX_LITERAL_LENGTH as MAX_LITERAL_LENGTH
    from model.text.protection import MAX_LITERALS as MAX_LITERALS
    from model.text.protection import Protection as Protection
    from model.translation import SegmentTranslation as SegmentTranslation
    from model.translation import Translation as Translation
    from model.translation import TranslationWarning as TranslationWarning
    from model.translation import WordQuality as WordQuality
    from model.translator import DEFAULT_MODEL as DEFAULT_MODEL
    from model.translator import PRETRAINED as PRETRAINED
    from model.translator import Translator as Translator

_HOMES = {
    "model.config": ("EngineConfig", "GenerationConfig", "ModelConfig"),
    "model.documents.document": ("Document", "DocumentLimits", "DocumentText"),
    "model.documents.formats": ("DOCUMENT_FORMATS", "open_document"),
    "model.engine.stats": ("EngineObserver", "EngineStats"),
    "model.errors": (
        "CheckpointError",
        "ConfigurationError",
        "CorpusError",
        "DeadlineExceededError",
        "DecodingError",
        "DragomanError",
        "EngineClosedError",
        "InvalidDocumentError",
        "InvalidOptionError",
        "InvalidRequestError",
        "InvalidTextError",
        "OverloadedError",
        "RequestCancelledError",
        "TrainingDivergedError",
        "UnavailableError",
        "UnsupportedLanguageError",
    ),
    "model.text.languages": ("Detection", "Language", "LanguageDetector", "language", "resolve"),
    "model.translation": ("SegmentTranslation", "Translation", "TranslationWarning", "WordQuality"),
    "model.explanation": ("Explanation", "ExplanationOptions"),
    "model.options": ("TextOptions",),
    "model.analysis": ("ExplainedTranslation", "ScoredTranslation", "WordAlternatives"),
    "model.pipeline.pending": ("PendingTranslation",),
    "model.text.alignment": ("WordAlignment",),
    "model.text.glossary": ("Glossary", "GlossaryHit", "match_terms"),
    "model.text.markup.options": ("MarkupOptions",),
    "model.text.protection": ("MAX_LITERALS", "MAX_LITERAL_LENGTH", "Protection"),
    "model.checkpoints.inspection": ("inspect_checkpoint",),
    "model.translator": ("DEFAULT_MODEL", "PRETRAINED", "Translator"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
