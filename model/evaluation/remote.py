"""A running service in the place of a Translator, for evaluation: lines through its native API, in turn."""

from __future__ import annotations

import dataclasses
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.config import GenerationConfig
from model.errors import ConfigurationError, UnavailableError

API_KEY_VARIABLE = "DRAGOMAN_API_KEY"
"""Environment variable with the key of a service that asks for one."""
TIMEOUT_SECONDS = 600.0
_LINES = 16
"""Lines of one request: enough to fill a batch, few enough for any limit."""
_NOT_SENT = ("target_prefix", "required_phrases")
"""Token ids that the service's API does not take."""


@dataclass(frozen=True)
class RemoteWarning:
    """A part of a text that could not be translated normally."""

    code: str


@dataclass(frozen=True)
class RemoteTranslation:
    """What a service answered for one text."""

    text: str
    warnings: tuple[RemoteWarning, ...]


class RemoteTranslator:
    """The service at an address.

    Attributes:
        name: the address.
        languages: codes that it translates from.
    """

    def __init__(self, url: str) -> None:
        """Ask the service for its languages.

        Raises:
            ConfigurationError: the address is none of HTTP.
            UnavailableError: the service does not answer as ours do.
        """
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError("url", "must begin with http:// or https://", url)
        self.name = url.rstrip("/")
        try:
            self.languages = tuple(str(item["code"]) for item in self._ask("v1/languages")["languages"])
        except (KeyError, TypeError) as error:
            raise UnavailableError(f"{self.name}/v1/languages did not answer as a Dragoman service does") from error

    def translate(
        self, texts: Sequence[str], source: str, target: str, config: GenerationConfig | None = None
    ) -> list[RemoteTranslation]:
        """Translate lines, some in each request.

        Raises:
            UnavailableError: the service refuses, or does not answer as ours do.
        """
        options = _options(config)
        results: list[RemoteTranslation] = []
        for start in range(0, len(texts), _LINES):
            body = {"texts": list(texts[start : start + _LINES]), "source": source, "target": target} | options
            reply = self._ask("v1/translate", body)
            try:
                found = [
                    RemoteTranslation(item["text"], tuple(RemoteWarning(w["code"]) for w in item["warnings"]))
                    for item in reply["translations"]
                ]
            except (KeyError, TypeError) as error:
                raise UnavailableError(f"{self.name}/v1/translate did not answer as a Dragoman service does") from error
            if len(found) != len(body["texts"]):
                rule = f"{len(found)} translations of {len(body['texts'])} texts"
                raise UnavailableError(f"{self.name}/v1/translate answered with {rule}")
            results += found
        return results

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        address = f"{self.name}/{path}"
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(API_KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, headers)  # noqa: S310, the scheme was checked
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:  # noqa: S310
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                detail = error.read().decode(errors="replace")
            raise UnavailableError(f"{address} answered {error.code}: {_detail(detail)}") from error
        except (OSError, ValueError) as error:
            raise UnavailableError(f"{address} did not answer as a Dragoman service does: {error}") from error


def _options(config: GenerationConfig | None) -> dict[str, Any]:
    """Return the part of a request that asks for what differs from the defaults."""
    default, config = dataclasses.asdict(GenerationConfig()), config or GenerationConfig()
    values = {name: value for name, value in dataclasses.asdict(config).items() if value != default[name]}
    for name in _NOT_SENT:
        if name in values:
            raise ConfigurationError(name, "must not be given with a service", values[name])
    return {"options": values} if values else {}


def _detail(body: str) -> str:
    """Return what a problem document (RFC 9457) says, or the beginning of any other answer."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200]
