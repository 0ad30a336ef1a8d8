"""The service's settings, from the environment and an optional TOML file; it decides nothing else at import.

A setting is looked up in this order: arguments of the constructor, an environment variable ``DRAGOMAN_<NAME>``, the
TOML file that ``DRAGOMAN_CONFIG_FILE`` names, the default below.
"""

from __future__ import annotations

import os
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from model import ConfigurationError, EngineConfig

CONFIG_FILE_VARIABLE = "DRAGOMAN_CONFIG_FILE"
"""Environment variable with the path of the TOML file."""

_ENGINE = EngineConfig()


class Settings(BaseSettings):
    """What an operator may choose. Use :meth:`load` where a person should read what is wrong.

    Raises:
        pydantic.ValidationError: a value breaks its rule, or the file has a name that is not listed here.
        ConfigurationError: the file is missing or is not TOML.
    """

    model_config = SettingsConfigDict(env_prefix="DRAGOMAN_", extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 lets the system choose."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is written."""

    models: Annotated[tuple[Path, ...], NoDecode] = ()
    """Checkpoint folders to serve, the default one first; none means the embedded model. In the environment, the
    folders are separated as in PATH."""
    models_directory: Path | None = None
    """Folder below which models may be loaded while the service runs, by an admin key; None for nowhere."""
    model_memory_megabytes: float = Field(default=0.0, ge=0)
    """Memory for the weights of all models together, in millions of bytes; those that were used least recently are
    unloaded to make room, and loaded again when a request needs them. 0 for no limit."""
    pivot: bool = True
    """Translate pairs that no model has by way of another language, where two models allow it."""
    device: str = _ENGINE.device
    """See EngineConfig.device."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = _ENGINE.dtype
    """See EngineConfig.dtype."""
    decoder: Literal["compiled", "plain"] = _ENGINE.decoder
    """See EngineConfig.decoder."""
    shortlist: bool = _ENGINE.shortlist
    """See EngineConfig.shortlist."""
    num_workers: int = Field(default=_ENGINE.num_workers, ge=0)
    """See EngineConfig.num_workers."""
    num_threads: int = Field(default=_ENGINE.num_threads, ge=1)
    """See EngineConfig.num_threads."""
    max_batch_tokens: int = Field(default=_ENGINE.max_batch_tokens, ge=0)
    """See EngineConfig.max_batch_tokens."""
    max_queued_requests: int = Field(default=_ENGINE.max_queued_requests, ge=1)
    """Segments that may wait for the device; requests beyond are answered with 503 and Retry-After."""

    max_body_bytes: int = Field(default=2 * 1024 * 1024, ge=1)
    """Largest request body; larger ones are answered with 413 before they are read to the end."""
    max_texts: int = Field(default=128, ge=1)
    """Most texts in one request."""
    max_characters: int = Field(default=100_000, ge=1)
    """Longest text, in characters (code points)."""
    max_alternatives: int = Field(default=10, ge=0, le=63)
    """Most alternatives that a request to the LibreTranslate endpoints may ask for."""
    deadline_seconds: float = Field(default=120.0, gt=0)
    """Time from the arrival of a request until it is answered with 504; a request may ask for less."""
    body_timeout_seconds: float = Field(default=30.0, gt=0)
    """Time in which a client must have sent its body, or it is answered with 408."""
    drain_seconds: float = Field(default=2.0, ge=0)
    """Time after SIGTERM in which new work is answered with 503, before the listener closes: so long do balancers need
    to notice /readyz."""
    request_timeout_seconds: float = Field(default=300.0, gt=0)
    """Time from the arrival of a request to the end of its reply, uploads and downloads included; then its connection
    is cut."""
    shutdown_timeout_seconds: float = Field(default=30.0, ge=0)
    """Time that running requests get to finish when the service is told to stop."""
    data_directory: Path | None = None
    """Folder for what must outlive the process: API keys, glossaries, documents; None for none of them."""
    require_key: bool = False
    """Answer only callers with an API key; needs data_directory."""
    key_url: str = Field(default="", pattern=r"^\S*$")
    """Address where people get an API key, for the message to those who have none."""
    characters_per_minute: int = Field(default=0, ge=0)
    """Most characters that one address may send in a minute without a key; 0 for no limit."""
    requests_per_minute: int = Field(default=0, ge=0)
    """Most requests that one address may send in a minute without a key; 0 for no limit."""
    limits_storage: str = "memory://"
    """Where the limits of a minute are counted: memory:// for each process by itself, redis:// for several together."""
    cache_megabytes: float = Field(default=64.0, ge=0)
    """Memory for translations that were made before, in millions of bytes; 0 switches the cache off."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; commas between them
    in the environment."""

    files: bool = True
    """Whether files are translated at all."""
    max_document_bytes: int = Field(default=20 * 1024 * 1024, ge=1)
    """Largest file to translate; larger ones are answered with 413 before they are read to the end."""
    document_workers: int = Field(default=2, ge=1)
    """Documents that are translated at the same time; each has few texts in the engine, so that others get through."""
    max_queued_documents: int = Field(default=100, ge=1)
    """Documents that may wait for their translation; requests beyond are answered with 503 and Retry-After."""
    max_stored_document_bytes: int = Field(default=1024**3, ge=1)
    """Size of all documents on the disk together; requests beyond are answered with 503 and Retry-After."""
    document_retention_seconds: float = Field(default=1800.0, gt=0)
    """Time after which a translated document is deleted."""
    document_timeout_seconds: float = Field(default=60.0, gt=0)
    """Time that reading or writing a document may take, without its translation."""
    suggestions: bool = False
    """Keep the translations that people suggest at /suggest, in the data directory."""

    otlp_endpoint: str = ""
    """Where spans of requests are sent, such as http://localhost:4318/v1/traces; empty for nowhere. Needs the extra
    tracing."""
    allow_origin: str = Field(default="*", pattern=r"^\S*$")
    """Web origin whose pages may call the API (CORS); empty for none."""

    @field_validator("models", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        """Let the environment give folders the way PATH does."""
        if isinstance(value, str):
            return tuple(part for part in value.split(os.pathsep) if part)
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_addresses(cls, value: Any) -> Any:
        """Let the environment give a list with commas."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Write single addresses as networks too; a ValueError says what is neither."""
        return tuple(str(ip_network(part, strict=False)) for part in value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the TOML file below the environment."""
        path = os.environ.get(CONFIG_FILE_VARIABLE)
        if not path:
            return (init_settings, env_settings)
        return (init_settings, env_settings, InitSettingsSource(settings_cls, _read_toml(Path(path))))

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings, and say which one is wrong in one sentence.

        Raises:
            ConfigurationError: a value breaks its rule, an unknown name, or an unusable file.
        """
        try:
            return cls(**overrides)
        except ValidationError as exception:
            first = exception.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "settings"
            raise ConfigurationError(name, f"is not acceptable ({first['msg']})", first["input"]) from exception

    def engine_config(self) -> EngineConfig:
        """Return the part of the settings that the engine takes."""
        return EngineConfig(
            device=self.device,
            dtype=self.dtype,
            decoder=self.decoder,
            shortlist=self.shortlist,
            num_workers=self.num_workers,
            num_threads=self.num_threads,
            max_batch_tokens=self.max_batch_tokens,
            max_queued_requests=self.max_queued_requests,
        )


def _read_toml(path: Path) -> dict[str, Any]:
    """Return the table of a TOML file, or raise ConfigurationError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exception:
        reason = exception.strerror or type(exception).__name__
        raise ConfigurationError(
            CONFIG_FILE_VARIABLE, f"must name a readable file ({reason})", str(path)
        ) from exception
    except ValueError as exception:  # TOMLDecodeError and UnicodeDecodeError
        raise ConfigurationError(CONFIG_FILE_VARIABLE, f"must name a TOML file ({exception})", str(path)) from exception
