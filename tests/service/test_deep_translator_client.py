"""deep-translator's LibreTranslator against a running service: all its parameters stand in the query string."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deep_translator import LibreTranslator  # type: ignore[import-untyped]
from deep_translator.exceptions import AuthorizationException, ServerException  # type: ignore[import-untyped]
from fastapi import FastAPI

from app.keys import ApiKey
from tests.service.running_server import serve


@pytest.fixture
def url(make_app: Callable[..., FastAPI]) -> Iterator[str]:
    with serve(make_app()) as address:
        yield f"{address}/"


def test_texts_and_batches(url: str) -> None:
    client = LibreTranslator(source="fr", target="en", api_key="any", custom_url=url)
    assert client.translate("été & hiver = 1+1? #2\n100 %") == "<en>été & hiver = 1+1? #2\n100 %"
    assert client.translate_batch(["un", "deux"]) == ["<en>un", "<en>deux"]
    automatic = LibreTranslator(source="auto", target="English", api_key="any", custom_url=url)
    assert automatic.translate("été") == "<en>été"


def test_a_file_that_the_client_reads_itself(url: str, tmp_path: Path) -> None:
    path = tmp_path / "carte.txt"
    path.write_text("été", encoding="utf-8")
    client = LibreTranslator(source="fr", target="en", api_key="any", custom_url=url)
    assert client.translate_file(str(path)) == "<en>été"


def test_errors_are_those_that_it_knows(make_app: Callable[..., FastAPI], tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path, require_key=True)
    application.state.service.access.keys.create(ApiKey("k", "k", 0.0), "secret")
    with serve(application) as address:
        known = LibreTranslator(source="fr", target="en", api_key="secret", custom_url=f"{address}/")
        assert known.translate("été") == "<en>été"
        unknown = LibreTranslator(source="fr", target="en", api_key="wrong", custom_url=f"{address}/")
        with pytest.raises(AuthorizationException):
            unknown.translate("été")
        missing = LibreTranslator(source="de", target="en", api_key="secret", custom_url=f"{address}/")
        with pytest.raises(ServerException):
            missing.translate("Sommer")
