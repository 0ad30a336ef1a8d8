"""Documents behind the requests' backs: restarts, fairness, deletion, quota, and what goes wrong."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

import app.portions
from app.access import Access, Caller
from app.database import DATABASE_NAME
from app.documents import FAILURE, DocumentService, NewDocument
from app.errors import QUOTA_EXCEEDED, RequestError
from app.keys import ApiKey, current_month
from app.metrics import Metrics
from app.registry import TranslatorRegistry
from app.settings import Settings
from model import (
    EngineClosedError,
    InvalidTextError,
    MarkupOptions,
    OverloadedError,
    TextOptions,
)
from tests.service.line_document import LineReader, use_lines, wait_until_over

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

pytestmark = pytest.mark.anyio
CALLER = Caller()
LINES = ("un", "deux", "trois")


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that the service has."""
    return "asyncio"


class Workshop:
    """A document service around the stub without HTTP; its clock stands still."""

    def __init__(self, stub: StubTranslator, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.registry, self.metrics, self.reader = TranslatorRegistry(), Metrics(), LineReader()
        self.registry.start([stub])
        self.access = Access(self.settings, self.metrics)
        self.now = 1000.0
        self.service = DocumentService(
            self.settings, self.registry, self.metrics, self.access, self.reader, lambda: self.now
        )
        self.service.formats = (".lines",)

    async def __aenter__(self) -> DocumentService:
        await self.service.start()
        return self.service

    async def __aexit__(self, *_: object) -> None:
        await self.service.close()
        self.access.close()


def new(*lines: str, **values: Any) -> NewDocument:
    fields: dict[str, Any] = {"name": "x.lines", "source": "fr", "target": "en"}
    return NewDocument("\n".join(lines).encode(), **{**fields, **values})


async def arrivals(stub: StubTranslator, count: int) -> None:
    """Wait until the translator was given so many texts."""
    for _ in range(count):
        assert await asyncio.to_thread(stub.arrivals.acquire, timeout=60)


async def test_a_document_is_translated_and_deleted_after_its_time(stub: StubTranslator, tmp_path: Path) -> None:
    workshop = Workshop(stub, data_directory=tmp_path, document_retention_seconds=100.0)
    async with workshop as service:
        added = await service.add(new(*LINES), CALLER)
        assert (added.state, added.characters, added.model) == ("queued", 11, "stub")
        done = await service.wait(added)
        assert done is not None
        assert (done.state, done.translated_characters, done.result_name) == ("done", 11, "x_en.lines")
        assert await service.result(done) == b"3\n<en>un\n<en>deux\n<en>trois"
        assert {work.caller for work in stub.submitted} == {added.id}
        assert service.expires(done) == 1100.0
        workshop.now = 1100.0
        await service.clean()
        assert await service.find(added.id) is not None
        workshop.now = 1100.5
        await service.clean()
        assert await service.find(added.id) is None
        assert list((tmp_path / "documents").iterdir()) == []


async def test_a_restart_goes_on_where_it_stopped(stub: StubTranslator, tmp_path: Path) -> None:
    stub.holds = True
    workshop = Workshop(stub, data_directory=tmp_path)
    async with workshop as service:
        added = await service.add(new(*LINES), CALLER)
        await arrivals(stub, 3)
        stub.submitted[1].finish()
        while (kept := await service.find(added.id)) is not None and not kept.translated_characters:
            await asyncio.sleep(0)
        assert kept is not None
        assert (kept.state, kept.translated_characters) == ("translating", 4)
    assert [work.cancelled.is_set() for work in stub.submitted] == [True, False, True]
    again = type(stub)()
    async with Workshop(again, data_directory=tmp_path) as service:
        done = await service.wait(added)
        assert done is not None
        assert await service.result(done) == b"3\n<en>un\n<en>deux\n<en>trois"
    assert [work.text for work in again.submitted] == ["un", "trois"]


async def test_without_a_directory_nothing_stays(stub: StubTranslator) -> None:
    workshop = Workshop(stub)
    async with workshop as service:
        directory = service._store.directory
        await service.wait(await service.add(new("un"), CALLER))
        assert directory.is_dir()
    assert not directory.parent.exists()
    with pytest.raises(EngineClosedError):
        await service.find("0" * 32)


async def test_equal_texts_are_translated_once_and_count_each_time(stub: StubTranslator) -> None:
    async with Workshop(stub) as service:
        done = await service.wait(await service.add(new("un", "deux", "un", "!!!"), CALLER))
        assert done is not None
        assert await service.result(done) == b"4\n<en>un\n<en>deux\n<en>un\n!!!"
        assert done.characters == 11
    assert [work.text for work in stub.submitted] == ["un", "deux"]


async def test_options_and_formats_reach_the_translator(stub: StubTranslator) -> None:
    options = TextOptions(markup=MarkupOptions(ignore_tags=("x",)))
    async with Workshop(stub) as service:
        await service.wait(await service.add(new("un", "<b>deux</b>", options=options), CALLER))
    assert [work.options for work in stub.submitted] == [options, replace(options, format="html")]


@pytest.mark.parametrize(
    ("lines", "source"), [(("été", "été"), "fr"), (("<a href='été'>summer</a>",), "en"), (("123", "!"), None)]
)
async def test_the_language_of_a_document_is_detected_once(
    stub: StubTranslator, lines: tuple[str, ...], source: str | None
) -> None:
    async with Workshop(stub) as service:
        added = await service.add(new(*lines, source=None), CALLER)
        assert added.source == source
        done = await service.wait(added)
        assert done is not None
        assert done.state == "done"
    assert {work.source for work in stub.submitted} <= {source}


async def test_modest_portions(stub: StubTranslator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.portions, "PORTION_TEXTS", 2)
    monkeypatch.setattr(app.portions, "PORTION_CHARACTERS", 8)
    stub.holds = True
    async with Workshop(stub) as service:
        added = await service.add(new("a", "b", "c", "d" * 20, "e"), CALLER)
        waves = [("a", "b"), ("c",), ("d" * 20,), ("e",)]  # c and the long text would be too much together
        position = 0
        for wave in waves:
            await arrivals(stub, len(wave))
            assert tuple(work.text for work in stub.submitted[position:]) == wave
            position += len(wave)
            for work in stub.submitted[position - len(wave) : position]:
                work.finish()
        done = await service.wait(added)
        assert done is not None
        assert done.state == "done"


async def test_a_full_queue_is_tried_again(stub: StubTranslator) -> None:
    stub.refusal, stub.refuses_after = OverloadedError("the queue is full", 0.0), 0
    refused = threading.Event()
    ordinary = stub.submit

    def submit(*arguments: Any, **options: Any) -> Any:
        try:
            return ordinary(*arguments, **options)
        except OverloadedError:
            refused.set()
            raise

    stub.submit = submit  # type: ignore[method-assign]
    async with Workshop(stub) as service:
        added = await service.add(new(*LINES), CALLER)
        assert await asyncio.to_thread(refused.wait, 60)
        stub.refuses_after = None
        done = await service.wait(added)
        assert done is not None
        assert done.state == "done"


async def test_owners_take_turns(stub: StubTranslator) -> None:
    stub.holds = True
    async with Workshop(stub, document_workers=2) as service:
        for owner, text in (("a", "un"), ("a", "deux"), ("b", "trois")):
            await service.add(new(text), Caller(id=owner))
            await asyncio.sleep(0)
        await arrivals(stub, 2)
        # The second document of the first owner may have been taken before the other owner's came, but not twice.
        running = {work.caller for work in stub.submitted}
        assert len(running) == 2
        stub.submitted[0].finish()
        stub.submitted[1].finish()
        await arrivals(stub, 1)
        assert sorted(work.text for work in stub.submitted) == ["deux", "trois", "un"]


async def test_deleting_stops_the_translation(stub: StubTranslator, tmp_path: Path) -> None:
    stub.holds = True
    async with Workshop(stub, data_directory=tmp_path) as service:
        added = await service.add(new(*LINES), CALLER)
        await arrivals(stub, 3)
        waiting = asyncio.ensure_future(service.wait(added))
        await asyncio.sleep(0)
        await service.delete(added)
        assert await waiting is None
        assert all(work.cancelled.is_set() for work in stub.submitted)
        assert await service.find(added.id) is None
        assert list((tmp_path / "documents").iterdir()) == []
        stub.holds = False
        after = await service.wait(await service.add(new("quatre"), CALLER))
        assert after is not None
        assert after.state == "done"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("BOMB", "document must unpack to at most 1000 bytes, got 1000000000"),
        ("UNWRITABLE", "document must be writable, got 'UNWRITABLE'"),
    ],
)
async def test_what_cannot_be_read_or_written_says_so(stub: StubTranslator, text: str, error: str) -> None:
    async with Workshop(stub) as service:
        failed = await service.wait(await service.add(new(text), CALLER))
        assert failed is not None
        assert (failed.state, failed.error) == ("error", error)
        assert await service.result(failed) is None


@pytest.mark.parametrize(
    ("refusal", "error"),
    [(InvalidTextError("text", "must be so", "x"), "text must be so, got 'x'"), (RuntimeError("secret"), FAILURE)],
)
async def test_what_cannot_be_translated_says_so(stub: StubTranslator, refusal: Exception, error: str) -> None:
    stub.refusal, stub.refuses_after = refusal, 1
    async with Workshop(stub) as service:
        failed = await service.wait(await service.add(new(*LINES), CALLER))
        assert failed is not None
        assert (failed.state, failed.error) == ("error", error)


async def test_reading_that_takes_too_long_is_given_up(stub: StubTranslator) -> None:
    workshop = Workshop(stub, document_timeout_seconds=0.05)
    async with workshop as service:
        try:
            failed = await service.add(new("WAIT"), CALLER)
            assert (failed.state, failed.error) == ("error", "reading or writing the document took over 0.05 s")
        finally:
            workshop.reader.go_on.set()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_queued_documents": 1}, "too many documents are waiting"),
        ({"max_stored_document_bytes": 4}, "there is no room for more documents"),
    ],
)
async def test_the_waiting_documents_are_bounded(stub: StubTranslator, settings: dict[str, Any], message: str) -> None:
    stub.holds = True
    async with Workshop(stub, **settings) as service:
        await service.add(new("un"), CALLER)
        with pytest.raises(OverloadedError, match=message):
            await service.add(new("deux"), CALLER)


async def test_the_quota_pays_for_what_is_translated(stub: StubTranslator, tmp_path: Path) -> None:
    key = ApiKey("k1", "name", 0.0, characters_per_month=100)
    caller = Caller(key.id, key.name, key=key)
    stub.holds = True
    workshop = Workshop(stub, data_directory=tmp_path)
    async with workshop as service:
        keys = workshop.access.keys
        assert keys is not None
        keys.create(key, "secret")

        def used() -> int:
            assert keys is not None
            return keys.usage(key.id, current_month()).characters

        added = await service.add(new(*LINES), caller)
        assert used() == 11
        await arrivals(stub, 3)
        stub.submitted[1].finish()
        while (kept := await service.find(added.id)) is not None and not kept.translated_characters:
            await asyncio.sleep(0)
        await service.delete(added)
        assert used() == 4  # for what was translated before it was deleted
        failing = await service.add(new("UNWRITABLE"), caller)
        assert used() == 14
        await arrivals(stub, 1)
        stub.submitted[-1].finish()
        await service.wait(failing)
        assert used() == 4
        with pytest.raises(RequestError) as refusal:
            await service.add(new("x" * 97), caller)
        assert refusal.value.kind is QUOTA_EXCEEDED
        assert (await service.of_owner("k1"))[0].id == failing.id


def test_a_new_application_finishes_what_an_old_one_began(
    make_app: Callable[..., FastAPI], stub: StubTranslator, tmp_path: Path
) -> None:
    stub.holds = True
    first = make_app(data_directory=tmp_path)
    use_lines(first)
    with TestClient(first) as client:
        reply = client.post("/v1/documents", data={"target": "en"}, files={"file": ("a.lines", "été\nhiver")})
        assert reply.status_code == 202, reply.text
        assert stub.arrived.wait(60)
    stub.holds = False
    second = make_app(data_directory=tmp_path)
    use_lines(second)
    with TestClient(second) as client:
        wait_until_over(client, reply.json()["id"])
        result = client.get(f"/v1/documents/{reply.json()['id']}/result")
        assert result.content.decode() == "2\n<en>été\n<en>hiver"
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        assert connection.execute("SELECT count(*) FROM document_texts").fetchone() == (0,)
