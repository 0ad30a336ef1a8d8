"""Queue, deadline, body size and a client that goes away: who is told what, and that the engine's work is let go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import Message

import app.limits
import app.logging
from model import DeadlineExceededError, EngineClosedError, InvalidTextError, OverloadedError

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

MakeApp = Callable[..., FastAPI]
PATIENCE_SECONDS = 30
"""For what must happen; a test fails after this instead of hanging."""


class Connection:
    """A client on the level of ASGI: it sends what it is told to, when it is told to."""

    def __init__(self, path: str, messages: Iterable[Message], headers: dict[str, str]) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("192.0.2.1", 1234),
            "server": ("test", 80),
            "state": {},
        }
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages:
            self.incoming.put_nowait(message)
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        return await self.incoming.get()

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


def run(application: FastAPI, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run ``scenario`` in one event loop with the application's lifespan around it."""

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), application.router.lifespan_context(application):
            await scenario()

    asyncio.run(main())


def chunk(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


BODIES = {
    "/v1/translate": b'{"texts": ["x", "y"], "source": "fr", "target": "en"}',
    "/translate": b'{"q": ["x", "y"], "source": "fr", "target": "en"}',
}
JSON = {"Content-Type": "application/json"}
faces = pytest.mark.parametrize("path", BODIES)


def sentence(reply: Any) -> str:
    """Return the sentence of an error on either face."""
    content = reply.json()
    return str(content.get("detail", content.get("error")))


# A client that goes away


@faces
def test_the_engine_stops_for_a_client_that_has_gone(make_app: MakeApp, stub: StubTranslator, path: str) -> None:
    stub.holds = True
    application = make_app()

    async def scenario() -> None:
        connection = Connection(path, [chunk(BODIES[path])], JSON)
        task = asyncio.ensure_future(application(connection.scope, connection.receive, connection.send))
        await asyncio.to_thread(stub.arrived.wait, PATIENCE_SECONDS)
        assert not task.done()
        assert [work.cancelled.is_set() for work in stub.submitted] == [False, False]
        connection.incoming.put_nowait({"type": "http.disconnect"})
        await task
        assert [work.cancelled.is_set() for work in stub.submitted] == [True, True]
        assert connection.status == 499

    run(application, scenario)


@faces
def test_the_engine_stops_when_the_server_gives_up_on_a_request(
    make_app: MakeApp, stub: StubTranslator, path: str
) -> None:
    stub.holds = True
    application = make_app()

    async def scenario() -> None:
        connection = Connection(path, [chunk(BODIES[path])], JSON)
        task = asyncio.ensure_future(application(connection.scope, connection.receive, connection.send))
        await asyncio.to_thread(stub.arrived.wait, PATIENCE_SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [work.cancelled.is_set() for work in stub.submitted] == [True, True]

    run(application, scenario)


@faces
def test_a_client_that_goes_away_while_it_sends(make_app: MakeApp, stub: StubTranslator, path: str) -> None:
    application = make_app()

    async def scenario() -> None:
        connection = Connection(path, [chunk(BODIES[path][:9], more=True), {"type": "http.disconnect"}], JSON)
        await application(connection.scope, connection.receive, connection.send)
        assert connection.status == 499
        assert stub.submitted == []

    run(application, scenario)


def test_a_finished_request_does_not_wait_for_the_client_to_go(make_app: MakeApp) -> None:
    application = make_app()

    async def scenario() -> None:
        connection = Connection("/v1/translate", [chunk(BODIES["/v1/translate"])], JSON)
        await application(connection.scope, connection.receive, connection.send)
        assert connection.status == 200

    run(application, scenario)


# The deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, stub: StubTranslator) -> None:
    """A clock that stands still at 0 seconds until a text is submitted, and at 10 seconds from then on."""
    fake = SimpleNamespace(monotonic=lambda: 10.0 if stub.arrived.is_set() else 0.0)
    monkeypatch.setattr(app.limits, "time", fake)
    monkeypatch.setattr(app.logging, "time", fake)


@faces
@pytest.mark.usefixtures("clock")
def test_the_deadline_of_the_service(make_app: MakeApp, stub: StubTranslator, path: str) -> None:
    stub.holds = True
    with TestClient(make_app(deadline_seconds=9.5)) as client:
        reply = client.post(path, content=BODIES[path], headers=JSON)
    assert reply.status_code == 504
    assert sentence(reply) == "the deadline passed before the translation was complete"
    assert [work.cancelled.is_set() for work in stub.submitted] == [True, True]


@pytest.mark.usefixtures("clock")
def test_a_request_may_ask_for_an_earlier_deadline(make_app: MakeApp, stub: StubTranslator) -> None:
    stub.holds = True
    body = {"texts": "x", "source": "fr", "target": "en"}
    with TestClient(make_app(deadline_seconds=20)) as client:
        assert client.post("/v1/translate", json={**body, "deadline_ms": 9500}).status_code == 504
        later = client.post("/v1/translate", json={**body, "deadline_ms": 20_001})
    assert later.status_code == 422
    assert later.json()["errors"][0]["pointer"] == "#/deadline_ms"
    assert [work.deadline_seconds for work in stub.submitted] == [9.5]


def test_no_work_begins_after_the_deadline(make_app: MakeApp, stub: StubTranslator) -> None:
    with TestClient(make_app(deadline_seconds=1e-9)) as client:
        reply = client.post("/v1/translate", content=BODIES["/v1/translate"], headers=JSON)
    assert (reply.status_code, sentence(reply)) == (504, "the deadline passed before the translation began")
    assert stub.submitted == []


def test_the_engine_knows_the_time_that_is_left(client: TestClient, stub: StubTranslator) -> None:
    for path, body in BODIES.items():
        assert client.post(path, content=body, headers=JSON).status_code == 200
    assert len(stub.submitted) == 4
    assert all(work.deadline_seconds is not None and 0 < work.deadline_seconds <= 120 for work in stub.submitted)


# The engine refuses or fails


@pytest.mark.parametrize(("seconds", "retry_after"), [(2.2, "3"), (0.0, "1")])
@faces
def test_a_full_queue(make_app: MakeApp, stub: StubTranslator, path: str, seconds: float, retry_after: str) -> None:
    stub.refusal, stub.refuses_after = OverloadedError("the queue is full", seconds), 0
    with TestClient(make_app()) as client:
        reply = client.post(path, content=BODIES[path], headers=JSON)
    assert (reply.status_code, sentence(reply)) == (503, "the queue is full")
    assert reply.headers["retry-after"] == retry_after


@pytest.mark.parametrize(
    "limits",
    [{"capacity": 2, "max_queued_requests": 100}, {"capacity": None, "max_queued_requests": 4}],
    ids=["the queue is full of its own work", "its own work fills half of the queue"],
)
def test_a_request_larger_than_the_queue_is_handed_over_in_parts(
    make_app: MakeApp, stub: StubTranslator, limits: dict[str, Any]
) -> None:
    stub.holds, stub.capacity = True, limits["capacity"]
    texts = [f"text {number}" for number in range(6)]
    application = make_app(max_queued_requests=limits["max_queued_requests"])

    async def scenario() -> None:
        body = json.dumps({"q": texts, "source": "fr", "target": "en"}).encode()
        connection = Connection("/translate", [chunk(body)], JSON)
        task = asyncio.ensure_future(application(connection.scope, connection.receive, connection.send))
        for _ in range(2):
            assert await asyncio.to_thread(stub.arrivals.acquire, timeout=PATIENCE_SECONDS)
        for number in range(4):
            assert stub.num_open == 2
            stub.submitted[number ^ 1].finish()  # the second before the first
            assert await asyncio.to_thread(stub.arrivals.acquire, timeout=PATIENCE_SECONDS)
        for work in stub.submitted[4:]:
            work.finish()
        await task
        assert json.loads(connection.sent[1]["body"]) == {"translatedText": [f"<en>{text}" for text in texts]}

    run(application, scenario)


@pytest.mark.parametrize(
    ("refusal", "status", "retry_after"),
    [(EngineClosedError("the engine is closed"), 503, "5"), (DeadlineExceededError("too late"), 504, None)],
)
@faces
def test_what_the_engine_refuses(
    make_app: MakeApp, stub: StubTranslator, path: str, refusal: Exception, status: int, retry_after: str | None
) -> None:
    stub.refusal, stub.refuses_after, stub.holds = refusal, 1, True
    with TestClient(make_app()) as client:
        reply = client.post(path, content=BODIES[path], headers=JSON)
    assert reply.status_code == status
    assert sentence(reply) == str(refusal)
    assert reply.headers.get("retry-after") == retry_after
    [accepted] = stub.submitted
    assert accepted.cancelled.is_set()  # nobody waits for half a request


@faces
def test_one_text_that_fails_ends_the_others(make_app: MakeApp, stub: StubTranslator, path: str) -> None:
    stub.holds = True
    application = make_app()

    async def scenario() -> None:
        connection = Connection(path, [chunk(BODIES[path])], JSON)
        task = asyncio.ensure_future(application(connection.scope, connection.receive, connection.send))
        await asyncio.to_thread(stub.arrived.wait, PATIENCE_SECONDS)
        first, second = stub.submitted
        second.future.set_exception(DeadlineExceededError("too late"))
        await task
        assert connection.status == 504
        assert first.cancelled.is_set()
        assert not second.cancelled.is_set()

    run(application, scenario)


def test_a_text_that_the_translator_refuses(make_app: MakeApp, stub: StubTranslator) -> None:
    stub.refusal, stub.refuses_after = InvalidTextError("text", "must not be odd", 3), 0
    with TestClient(make_app()) as client:
        native = client.post("/v1/translate", content=BODIES["/v1/translate"], headers=JSON)
        libre = client.post("/translate", content=BODIES["/translate"], headers=JSON)
    assert (native.status_code, native.json()["type"]) == (422, "urn:dragoman:problem:invalid-text")
    assert (libre.status_code, libre.json()) == (400, {"error": "text must not be odd, got 3"})


# The body


@faces
def test_a_body_that_says_it_is_too_large_is_not_read(make_app: MakeApp, path: str) -> None:
    application = make_app(max_body_bytes=1000)

    async def scenario() -> None:
        connection = Connection(path, [], {**JSON, "Content-Length": "1001"})  # receive() would wait for ever
        await application(connection.scope, connection.receive, connection.send)
        assert connection.status == 413

    run(application, scenario)


@faces
@pytest.mark.parametrize("declared", [{}, {"Content-Length": "5"}, {"Content-Length": "-1"}])
def test_a_body_that_grows_too_large_is_not_read_to_the_end(
    make_app: MakeApp, path: str, declared: dict[str, str]
) -> None:
    application = make_app(max_body_bytes=1000)

    async def scenario() -> None:
        connection = Connection(path, [chunk(b" " * 300, more=True)] * 10, {**JSON, **declared})
        await application(connection.scope, connection.receive, connection.send)
        assert connection.status == 413
        assert connection.incoming.qsize() == 6  # 1200 bytes were enough to know

    run(application, scenario)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"])
def test_forms_have_the_same_limit(make_app: MakeApp, content_type: str) -> None:
    with TestClient(make_app(max_body_bytes=1000)) as client:
        reply = client.post("/translate", content=iter([b"a" * 600] * 2), headers={"Content-Type": content_type})
    assert (reply.status_code, reply.json()) == (413, {"error": "the body must have at most 1000 bytes"})


def test_a_body_of_exactly_the_limit_is_read(make_app: MakeApp) -> None:
    body = BODIES["/translate"]
    with TestClient(make_app(max_body_bytes=len(body))) as client:
        assert client.post("/translate", content=body, headers=JSON).status_code == 200
    with TestClient(make_app(max_body_bytes=len(body) - 1)) as client:
        reply = client.post("/v1/translate", content=body, headers=JSON)
        assert (reply.status_code, reply.json()["type"]) == (413, "urn:dragoman:problem:body-too-large")


@faces
def test_a_body_that_never_ends(make_app: MakeApp, path: str) -> None:
    application = make_app(body_timeout_seconds=0.05)

    async def scenario() -> None:
        connection = Connection(path, [chunk(b"{", more=True)], JSON)
        await application(connection.scope, connection.receive, connection.send)
        assert connection.status == 408

    run(application, scenario)
