"""The service's settings, from the environment and an optional TOML file; it decides nothing else at import.

A setting is looked up in this order: arguments of the constructor, an environment variable ``DRAGOMAN_<NAME>``, the
TOML file that ``DRAGOMAN_CONFIG_FILE`` names, the default below.
"""

from __future__ import annotations

import os
import tomllib
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
    shutdown_timeout_seconds: float = Field(default=30.0, ge=0)
    """Time that running requests get to finish when the service is told to stop."""
    allow_origin: str = Field(default="*", pattern=r"^\S*$")
    """Web origin whose pages may call the API (CORS); empty for none."""

    @field_validator("models", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        """Let the environment give folders the way PATH does."""
        if isinstance(value, str):
            return tuple(part for part in value.split(os.pathsep) if part)
        return value

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
