"""What replies tell browsers: what a page may load and run, who may call the API; and the time limit of a request."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.headers import SecurityHeadersMiddleware, TimeLimitMiddleware, page_policy

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

MakeApp = Callable[..., FastAPI]

STATIC = Path(__file__).parents[2] / "app" / "static"
FRENCH = {"q": "été", "source": "fr", "target": "en"}
NATIVE = {"texts": "été", "source": "fr", "target": "en"}


class InlineCode(HTMLParser):
    """Collects what a browser would run or apply that stands in the page itself."""

    def __init__(self) -> None:
        super().__init__()
        self.code: dict[str, list[str]] = {"script": [], "style": []}
        self.attributes: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note event handlers and style attributes, which no policy of ours allows."""
        self.attributes += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self.inside = tag if tag in self.code and "src" not in dict(attrs) else ""

    def handle_data(self, data: str) -> None:
        """Note inline code."""
        if self.inside:
            self.code[self.inside].append(data)

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the signature is HTMLParser's
        """Leave the code."""
        self.inside = ""


def directives(policy: str) -> dict[str, set[str]]:
    """Return the sources of each directive."""
    parts = [part.split() for part in policy.split(";")]
    return {name: set(sources) for name, *sources in parts}


# Security headers


@pytest.mark.parametrize(
    "path", ["/livez", "/docs", "/metrics", "/openapi.json", "/nothing", "/v1/translate", "/translate"]
)
def test_every_reply_has_them(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    policy = directives(headers["content-security-policy"])
    assert policy["default-src"] == policy["frame-ancestors"] == {"'none'"}
    assert "connection" not in headers


def test_a_failure_has_them_too(make_app: MakeApp, stub: StubTranslator) -> None:
    stub.refuses_after, stub.refusal = 0, RuntimeError("broken")
    with TestClient(make_app()) as client:
        reply = client.post("/v1/translate", json=NATIVE)
    assert (reply.status_code, reply.headers["x-content-type-options"]) == (500, "nosniff")


def test_replies_that_are_no_pages_may_do_nothing(client: TestClient) -> None:
    policy = directives(client.post("/v1/translate", json=NATIVE).headers["content-security-policy"])
    assert set(policy) == {"default-src", "frame-ancestors"}


@pytest.mark.parametrize("page", sorted(STATIC.rglob("*.html")), ids=lambda page: str(page.name))
def test_our_pages_may_run_their_own_code_and_no_other(client: TestClient, page: Path) -> None:
    policy = directives(client.get("/docs").headers["content-security-policy"])
    inline = InlineCode()
    inline.feed(page.read_text(encoding="utf-8"))
    assert inline.attributes == []
    for kind, blocks in inline.code.items():
        allowed = policy[f"{kind}-src"]
        for block in blocks:
            digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in allowed
        assert {source for source in allowed if not source.startswith("'sha256-")} == {"'self'"}
    assert policy["connect-src"] == {"'self'"}
    assert all("http" not in source and "*" not in source for sources in policy.values() for source in sources)


def test_changed_code_has_another_hash(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>first()</script><script src='x.js'></script><style>a {}</style>")
    first = directives(page_policy([page]))
    page.write_text("<script>other()</script><style>a {}</style>")
    second = directives(page_policy([page]))
    assert len(first["script-src"]) == len(second["script-src"]) == 2
    assert first["script-src"] & second["script-src"] == {"'self'"}
    assert first["style-src"] == second["style-src"]


def test_somebody_elses_page_comes_without_rights() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"Content-Disposition": "attachment; filename=page.html"}
        await Response("<script>alert(1)</script>", media_type="text/html", headers=headers)(scope, receive, send)

    client = TestClient(SecurityHeadersMiddleware(application, stopping=lambda: False))
    assert set(directives(client.get("/").headers["content-security-policy"])) == {"default-src", "frame-ancestors"}


def test_connections_are_closed_while_the_service_stops(make_app: MakeApp) -> None:
    application = make_app()
    with TestClient(application) as client:
        assert "connection" not in client.get("/livez").headers
        application.state.service.registry.stop_accepting()
        assert client.get("/livez").headers["connection"] == "close"
        refused = client.post("/v1/translate", json=NATIVE)
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")


# CORS


@pytest.mark.parametrize("path", ["/v1/translate", "/v2/translate", "/v2/glossaries", "/v3/glossaries/1"])
def test_pages_of_others_may_use_all_of_our_methods(client: TestClient, path: str) -> None:
    preflight = client.options(
        path, headers={"Origin": "https://example.org", "Access-Control-Request-Method": "DELETE"}
    )
    assert preflight.status_code == 200
    headers = preflight.headers
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-methods"] == "GET, POST, PUT, PATCH, DELETE"
    allowed = {name.lower() for name in headers["access-control-allow-headers"].split(", ")}
    assert allowed == {"authorization", "content-type", "x-api-key", "ocp-apim-subscription-key", "x-request-id"}


def test_pages_of_others_may_read_what_is_left_of_their_limits(make_app: MakeApp) -> None:
    with TestClient(make_app(characters_per_minute=100, allow_origin="https://example.org")) as client:
        headers = client.post("/v1/translate", json=NATIVE).headers
    assert headers["access-control-allow-origin"] == "https://example.org"
    exposed = set(headers["access-control-expose-headers"].split(", "))
    limits = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-Metered-Usage"}
    assert limits <= exposed
    assert limits <= {name.title().replace("Ratelimit", "RateLimit") for name in headers}


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/docs", "/readyz"])
def test_the_operators_endpoints_are_not_shared(client: TestClient, path: str) -> None:
    assert "access-control-allow-origin" not in client.get(path).headers
    assert client.options(path).status_code == 405


# The time limit


def call(application: ASGIApp, path: str = "/v1/translate") -> list[Message]:
    """Send one request whose body never comes, and return what was sent."""
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}

    async def run() -> None:
        await application(scope, receive, send)

    asyncio.run(run())
    return sent


@pytest.mark.parametrize(("path", "field"), [("/v1/translate", b'"detail"'), ("/translate", b'"error"')])
def test_a_request_that_takes_too_long(path: str, field: bytes) -> None:
    ended: list[str] = []

    async def application(_scope: Scope, receive: Receive, _send: Send) -> None:
        try:
            await receive()
        finally:
            ended.append("ended")

    start, body = call(TimeLimitMiddleware(application, seconds=0.01), path)
    assert start["status"] == 504
    assert field in body["body"]
    assert b"the request took over 0.01 s" in body["body"]
    assert ended == ["ended"]


def test_a_reply_that_takes_too_long_is_cut() -> None:
    async def application(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await receive()

    sent = call(TimeLimitMiddleware(application, seconds=0.01))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"]


def test_a_time_out_of_the_application_is_not_taken_for_ours() -> None:
    async def application(*_: Any) -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        call(TimeLimitMiddleware(application, seconds=1000))


def test_the_service_has_the_limit_of_its_settings(make_app: MakeApp, stub: StubTranslator) -> None:
    stub.holds = True
    with TestClient(make_app(request_timeout_seconds=0.05)) as client:
        reply = client.post("/translate", json=FRENCH)
    assert (reply.status_code, reply.json()) == (504, {"error": "the request took over 0.05 s"})
    assert all(work.cancelled.is_set() for work in stub.submitted)
