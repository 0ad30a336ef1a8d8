"""Our own OpenAPI document against the service: whatever it allows is answered as it says, and never with a 500."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.main import create_app
from app.settings import Settings
from tests.service.conftest import StubTranslator
from tests.service.line_document import use_lines
from tests.service.running_server import serve

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def _application() -> FastAPI:
    return create_app(Settings(max_texts=8, max_characters=500), translators=[StubTranslator()])


schema = schemathesis.openapi.from_dict(_application().openapi()).include(path_regex="^/v1/")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a service that runs through all examples."""
    application = _application()
    use_lines(application)
    with serve(application) as address:
        yield address


@schema.parametrize()
@hypothesis.settings(
    max_examples=5,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
def test_the_native_face_keeps_its_word(case: schemathesis.Case[Any], url: str) -> None:
    response = case.call(base_url=url)
    case.validate_response(response, checks=CHECKS)


def test_documents_that_exist_are_answered_as_promised(url: str) -> None:
    files = {"file": ("a.lines", "été")}
    sent = httpx2.post(f"{url}/v1/documents", data={"target": "en"}, files=files)
    assert sent.status_code == 202
    parameters = {"document_id": sent.json()["id"]}
    for path, method in (("", "GET"), ("/result", "GET"), ("", "DELETE")):
        operation = schema[f"/v1/documents/{{document_id}}{path}"][method]
        case = operation.Case(path_parameters=parameters)
        response = case.call(base_url=url)
        assert response.status_code in (200, 204, 409)
        case.validate_response(response, checks=CHECKS)


def test_there_is_something_to_check() -> None:
    found = {result.ok().path for result in schema.get_all_operations() if isinstance(result, Ok)}
    assert {"/v1/translate", "/v1/detect", "/v1/documents", "/v1/documents/{document_id}/result"} <= found


def test_every_path_has_a_summary_and_an_operation_id() -> None:
    document: dict[str, Any] = _application().openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation.get("summary"), (method, path)
            assert operation.get("description"), (method, path)
    ids = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert len(set(ids)) == len(ids)
