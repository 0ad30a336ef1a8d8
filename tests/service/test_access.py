"""Who may send how much, on every face: keys in all places, limits of a minute, quotas of a month, and what is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import fakeredis
import limits.storage.memory
import pytest
import redis
from fastapi import FastAPI
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.requests import Request
from starlette.testclient import TestClient

from app import access as access_module
from app.access import NO_CHARACTER_LIMIT, Caller, RateLimits, _retry_seconds, find_key
from app.errors import RequestError
from app.keys import ApiKey, generate_key
from app.logging import configure_logging
from app.settings import Settings
from model import ConfigurationError, DecodingError

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

MakeApp = Callable[..., FastAPI]

TEN = "dix lettre"
NATIVE = {"texts": TEN, "source": "fr", "target": "en"}
LIBRE = {"q": TEN, "source": "fr", "target": "en"}
START = 1_767_225_600.0
"""A whole number of minutes, at the begin of 2026 in UTC."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock for the limits that the test moves; its ``now`` is a time of day."""
    clock = SimpleNamespace(now=START)
    monkeypatch.setattr(limits.storage.memory, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def new_key(application: FastAPI, name: str = "first", **fields: Any) -> str:
    """Create a key in the database of an application and return its secret."""
    secret = generate_key()
    key = ApiKey(id=f"id-{name}", name=name, created=time.time(), **fields)
    application.state.service.access.keys.create(key, secret)
    return secret


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def used(application: FastAPI, name: str = "first") -> tuple[int, int]:
    """Return the characters and the requests of all months of a key."""
    months = application.state.service.access.keys.history(f"id-{name}")
    return sum(month.characters for month in months), sum(month.requests for month in months)


def admissions(client: TestClient) -> dict[str, float]:
    """Return the admissions that /metrics shows, by outcome."""
    prefix = 'dragoman_admissions_total{outcome="'
    lines = [line.removeprefix(prefix) for line in client.get("/metrics").text.splitlines() if line.startswith(prefix)]
    return {line.split('"')[0]: float(line.split()[-1]) for line in lines}


# Keys


def request_with(headers: dict[str, str] | None = None, query: str = "") -> Request:
    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "headers": pairs, "query_string": query.encode()})


@pytest.mark.parametrize(
    ("headers", "query", "parameters"),
    [
        ({"Authorization": "DeepL-Auth-Key K"}, "", None),
        ({"Authorization": "deepl-auth-key   K "}, "", None),
        ({"Authorization": "Bearer K"}, "", None),
        ({"Authorization": "Basic other", "X-API-Key": "K"}, "", None),
        ({"Ocp-Apim-Subscription-Key": "K"}, "", None),
        ({}, "api_key=K", None),
        ({}, "auth_key=K", {"api_key": ""}),
        ({}, "", {"api_key": "K"}),
        ({}, "api_key=other", {"auth_key": "K"}),
        ({"Authorization": "Bearer K", "X-API-Key": "other"}, "api_key=other", {"api_key": "other"}),
    ],
)
def test_a_key_is_found_wherever_clients_put_it(
    headers: dict[str, str], query: str, parameters: dict[str, Any] | None
) -> None:
    assert find_key(request_with(headers, query), parameters) == "K"


@pytest.mark.parametrize("parameters", [None, {}, {"api_key": None}, {"api_key": 5}, {"api_key": ["K"]}])
def test_what_is_no_key_is_not_taken_for_one(parameters: dict[str, Any] | None) -> None:
    for header in ("", "Bearer", "Bearer ", "Basic K", "K"):
        assert find_key(request_with({"Authorization": header}), parameters) is None


def test_without_a_data_directory_keys_are_ignored(client: TestClient) -> None:
    assert client.post("/translate", json={**LIBRE, "api_key": "anything"}).status_code == 200
    assert client.post("/v1/translate", json=NATIVE, headers=bearer("anything")).status_code == 200


def test_keys_are_ignored_until_the_first_one_is_made(make_app: MakeApp, tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path)
    with TestClient(application) as client:
        # A client that cannot but send a key can use a service that has none.
        assert client.post("/v1/translate", json=NATIVE, headers=bearer("anything")).status_code == 200
        new_key(application)
        assert client.post("/v1/translate", json=NATIVE, headers=bearer("anything")).status_code == 403
    with TestClient(make_app(data_directory=tmp_path / "other", require_key=True)) as client:
        assert client.post("/v1/translate", json=NATIVE, headers=bearer("anything")).status_code == 403


def test_a_key_that_is_required_needs_a_place_to_be_kept(make_app: MakeApp) -> None:
    with pytest.raises(ConfigurationError, match="data_directory must be set when require_key is"):
        make_app(require_key=True)


def test_a_missing_key_in_the_words_of_each_face(make_app: MakeApp, stub: StubTranslator, tmp_path: Path) -> None:
    with TestClient(make_app(data_directory=tmp_path, require_key=True)) as client:
        native = client.post("/v1/translate", json=NATIVE)
        libre = client.post("/translate", json=LIBRE)
        detected = client.post("/detect", json=LIBRE), client.post("/v1/detect", json={"texts": TEN})
        assert admissions(client) == {"missing_key": 4}
    assert (native.status_code, native.json()["type"]) == (401, "urn:dragoman:problem:missing-key")
    assert native.headers["www-authenticate"] == "Bearer"
    assert (libre.status_code, libre.json()) == (
        400,
        {"error": "Please contact the server operator to get an API key"},
    )
    assert [reply.status_code for reply in detected] == [400, 401]
    assert stub.submitted == []


def test_the_address_where_keys_are_given_out(make_app: MakeApp, tmp_path: Path) -> None:
    settings = {"data_directory": tmp_path, "require_key": True, "key_url": "https://keys.example"}
    with TestClient(make_app(**settings)) as client:
        reply = client.post("/translate", json=LIBRE)
    assert reply.json() == {"error": "Visit https://keys.example to get an API key"}


def test_keys_that_are_not_valid(make_app: MakeApp, stub: StubTranslator, tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path)
    with TestClient(application) as client:
        expired = new_key(application, "expired", expires=time.time() - 1)
        disabled = new_key(application, "disabled", disabled=True)
        for secret, message in (
            (generate_key(), "Invalid API key"),
            (expired, "The API key has expired"),
            (disabled, "The API key is disabled"),
        ):
            native = client.post("/v1/translate", json=NATIVE, headers=bearer(secret))
            libre = client.post("/translate", json={**LIBRE, "api_key": secret})
            assert (native.status_code, native.json()["detail"]) == (403, message)
            assert native.json()["type"] == "urn:dragoman:problem:invalid-key"
            assert (libre.status_code, libre.json()) == (403, {"error": message})
        assert admissions(client) == {"invalid_key": 6}
    assert stub.submitted == []


def test_a_valid_key_is_let_through_in_every_encoding(make_app: MakeApp, tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path, require_key=True)
    with TestClient(application) as client:
        secret = new_key(application, expires=time.time() + 1000)
        replies = [
            client.post("/v1/translate", json=NATIVE, headers=bearer(secret)),
            client.post("/v1/translate", json=NATIVE, headers={"Authorization": f"DeepL-Auth-Key {secret}"}),
            client.post(f"/v1/translate?api_key={secret}", json=NATIVE),
            client.post("/translate", json={**LIBRE, "api_key": secret}),
            client.post("/translate", data={**LIBRE, "api_key": secret}),
            client.post("/translate", params={**LIBRE, "api_key": secret}),
            client.post("/translate", json=LIBRE, headers={"X-API-Key": secret}),
        ]
        assert [reply.status_code for reply in replies] == [200] * 7
        assert used(application) == (70, 7)


# Usage and quotas


def test_what_was_translated_is_counted_and_what_was_refused_is_not(
    make_app: MakeApp, stub: StubTranslator, tmp_path: Path
) -> None:
    application = make_app(data_directory=tmp_path)
    with TestClient(application, raise_server_exceptions=False) as client:
        headers = bearer(new_key(application, characters_per_month=1000))
        good = client.post("/v1/translate", json={**NATIVE, "texts": [TEN, TEN]}, headers=headers)
        assert (good.status_code, good.headers["x-metered-usage"]) == (200, "20")
        assert used(application) == (20, 1)
        for exception, status in ((DecodingError("broken"), 500), (RuntimeError("broken"), 500)):
            stub.refuses_after, stub.refusal = 0, exception
            bad = client.post("/v1/translate", json=NATIVE, headers=headers)
            assert bad.status_code == status
            assert "x-metered-usage" not in bad.headers
        client.post("/v1/translate", json={**NATIVE, "target": "zz"}, headers=headers)
        client.post("/translate", json={**LIBRE, "target": "zz"}, headers=headers)
        assert used(application) == (20, 1)
        client.post("/v1/detect", json={"texts": TEN}, headers=headers)
        assert used(application) == (20, 2)  # detection is a request, but translates nothing


def test_a_quota_that_is_used_up(make_app: MakeApp, stub: StubTranslator, tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path)
    with TestClient(application) as client:
        secret = new_key(application, characters_per_month=25)
        for _ in range(2):
            assert client.post("/v1/translate", json=NATIVE, headers=bearer(secret)).status_code == 200
        native = client.post("/v1/translate", json=NATIVE, headers=bearer(secret))
        libre = client.post("/translate", json={**LIBRE, "api_key": secret})
        assert (native.status_code, native.json()["type"]) == (429, "urn:dragoman:problem:quota-exceeded")
        assert "retry-after" not in native.headers  # a client that comes back in a minute would be refused again
        message = "The quota of 25 characters a month is used up"
        assert (libre.status_code, libre.json()) == (403, {"error": message})
        assert (
            client.post("/v1/translate", json={**NATIVE, "texts": "court"}, headers=bearer(secret)).status_code == 200
        )
        assert used(application) == (25, 3)
        assert admissions(client) == {"admitted": 3, "quota_exceeded": 2}
    assert len(stub.submitted) == 3


def test_usage_of_a_month(make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    application = make_app(data_directory=tmp_path)
    with TestClient(application) as client:
        secret = new_key(application, characters_per_month=25)
        monkeypatch.setattr(access_module, "current_month", lambda: "2025-12")
        client.post("/v1/translate", json=NATIVE, headers=bearer(secret))
        access = application.state.service.access
        assert client.portal is not None
        caller = client.portal.call(access.identify, request_with(bearer(secret)))
        assert (caller.id, caller.name, caller.is_admin) == ("id-first", "first", False)
        usage = client.portal.call(access.usage, caller)
        assert (usage.character_count, usage.character_limit) == (10, 25)
        assert usage.start == datetime(2025, 12, 1, tzinfo=UTC)
        assert usage.end == datetime(2026, 1, 1, tzinfo=UTC)
        nobody = client.portal.call(access.usage, Caller())
        assert (nobody.character_count, nobody.character_limit) == (0, NO_CHARACTER_LIMIT)


def test_a_request_that_is_admitted_twice_counts_as_one(make_app: MakeApp, tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path)
    with TestClient(application) as client:
        request = request_with(bearer(new_key(application, requests_per_minute=1)))
        access = application.state.service.access
        assert client.portal is not None
        client.portal.call(access.admit, request)
        client.portal.call(access.admit, request, 5)
        client.portal.call(access.admit, request, 6)
        assert used(application) == (11, 1)


def test_work_without_a_reply_is_charged_and_given_back(make_app: MakeApp, tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path)
    with TestClient(application) as client:
        secret = new_key(application, characters_per_month=100)
        access = application.state.service.access
        assert client.portal is not None
        caller = client.portal.call(access.identify, request_with(bearer(secret)))
        client.portal.call(access.charge, caller, 80)
        with pytest.raises(RequestError, match="The quota of 100 characters a month is used up"):
            client.portal.call(access.charge, caller, 21)
        client.portal.call(access.give_back, caller, 30)
        assert used(application) == (50, 0)


def test_a_key_that_is_deleted_meanwhile(make_app: MakeApp, tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path)
    with TestClient(application) as client:
        access = application.state.service.access
        assert client.portal is not None
        caller = client.portal.call(access.identify, request_with(bearer(new_key(application))))
        access.keys.delete("id-first")
        with pytest.raises(RequestError, match="Invalid API key"):
            client.portal.call(access.charge, caller, 1)


# Limits of a minute


def test_characters_of_a_minute_without_a_key(make_app: MakeApp, clock: SimpleNamespace) -> None:
    with TestClient(make_app(characters_per_minute=25)) as client:
        first, second = client.post("/v1/translate", json=NATIVE), client.post("/translate", json=LIBRE)
        clock.now += 20
        native, libre = client.post("/v1/translate", json=NATIVE), client.post("/translate", json=LIBRE)
        assert [reply.headers["x-ratelimit-remaining"] for reply in (first, second, native)] == ["15", "5", "5"]
        assert [reply.headers["x-ratelimit-reset"] for reply in (first, native)] == ["60", "40"]
        assert first.headers["x-ratelimit-limit"] == "25"
        assert (native.status_code, native.json()["type"]) == (429, "urn:dragoman:problem:too-many-requests")
        assert (libre.status_code, libre.json()) == (429, {"error": "Slowdown: 25 characters per minute are allowed"})
        # 20 characters of the minute before must weigh less than 16: over 12 s of the next minute must have passed.
        assert native.headers["retry-after"] == libre.headers["retry-after"] == str(40 + 13)
        clock.now += 52
        assert client.post("/translate", json=LIBRE).status_code == 429
        clock.now += 1
        assert client.post("/translate", json=LIBRE).status_code == 200


def test_requests_of_a_minute(make_app: MakeApp, clock: SimpleNamespace) -> None:
    with TestClient(make_app(requests_per_minute=2)) as client:
        replies = [client.post("/detect", json=LIBRE) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert replies[2].json() == {"error": "Slowdown: 2 requests per minute are allowed"}
        clock.now += 120
        assert client.post("/detect", json=LIBRE).status_code == 200


def test_a_request_that_no_minute_has_room_for(make_app: MakeApp) -> None:
    with TestClient(make_app(characters_per_minute=9)) as client:
        native, libre = client.post("/v1/translate", json=NATIVE), client.post("/translate", json=LIBRE)
    assert (native.status_code, native.json()["type"]) == (413, "urn:dragoman:problem:over-limit")
    assert "retry-after" not in native.headers
    assert libre.status_code == 400
    assert libre.json()["error"].startswith("Invalid request: request (10) exceeds text limit (9)")


@pytest.mark.usefixtures("clock")
def test_a_key_has_limits_of_its_own(make_app: MakeApp, tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path, characters_per_minute=10)
    with TestClient(application) as client:
        limited = bearer(new_key(application, "limited", characters_per_minute=20))
        free = bearer(new_key(application, "free"))
        for headers, allowed in ((limited, 2), (free, 5), ({}, 1)):
            replies = [client.post("/v1/translate", json=NATIVE, headers=headers) for _ in range(5)]
            assert [reply.status_code for reply in replies] == [200] * allowed + [429] * (5 - allowed)
        assert used(application, "limited") == (20, 2)


@pytest.mark.usefixtures("clock")
def test_addresses_do_not_share_limits_but_the_ends_of_a_network_do(make_app: MakeApp) -> None:
    application = make_app(requests_per_minute=1)
    with TestClient(application):
        for address, status in (
            ("192.0.2.1", 200),
            ("192.0.2.1", 429),
            ("::ffff:192.0.2.1", 429),
            ("192.0.2.2", 200),
            ("2001:db8::1", 200),
            ("2001:db8::ffff", 429),
            ("2001:db8:0:1::1", 200),
        ):
            client = TestClient(application, client=(address, 1234))
            assert client.post("/detect", json=LIBRE).status_code == status, address


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("trusted", "statuses"), [((), [200, 429]), (("10.0.0.0/8",), [200, 200])])
def test_only_a_trusted_proxy_says_who_the_client_is(
    make_app: MakeApp, trusted: tuple[str, ...], statuses: list[int]
) -> None:
    application = make_app(requests_per_minute=1, trusted_proxies=trusted)
    with TestClient(application):
        client = TestClient(application, client=("10.1.2.3", 1234))
        found = []
        for address in ("192.0.2.1", "192.0.2.2"):
            # What stands left of the nearest untrusted address may be the client's own invention.
            header = {"X-Forwarded-For": f"198.51.100.9, {address}, 10.9.9.9"}
            found.append(client.post("/detect", json=LIBRE, headers=header).status_code)
    assert found == statuses


def test_proxies_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_TRUSTED_PROXIES", "10.1.2.3/8, ::1")
    assert Settings.load().trusted_proxies == ("10.0.0.0/8", "::1/128")
    monkeypatch.setenv("DRAGOMAN_TRUSTED_PROXIES", "proxy")
    with pytest.raises(ConfigurationError, match=r"^trusted_proxies is not acceptable"):
        Settings.load()


# The time to wait


STATES = [
    (previous, current, elapsed)
    for previous in (0, 7, 40, 100)
    for current in (0, 3, 60, 100)
    for elapsed in (0, 13, 59)
    if previous * (60 - elapsed) / 60 + current <= 100  # others cannot arise under a limit of 100
]


@pytest.mark.parametrize(("previous", "current", "elapsed"), STATES)
def test_the_time_to_wait_is_the_first_second_that_has_room(
    clock: SimpleNamespace, previous: int, current: int, elapsed: int
) -> None:
    item, limit, cost = limits.RateLimitItemPerMinute(100), 100, 30
    strategy = SlidingWindowCounterRateLimiter

    def refused_after(seconds: int) -> bool:
        storage = MemoryStorage()
        clock.now = START - 60 + 30
        assert not previous or strategy(storage).hit(item, "x", cost=previous)
        clock.now = START + elapsed
        if current:
            storage.incr(storage.sliding_window_keys(item.key_for("x"), 60, clock.now)[1], 120, amount=current)
        clock.now += seconds
        return not strategy(storage).test(item, "x", cost=cost)

    first = next(seconds for seconds in range(1, 200) if not refused_after(seconds))
    assert _retry_seconds(previous, 60 - elapsed, current, 60 - elapsed, limit - cost) == first


# A storage that several processes share


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> fakeredis.FakeServer:
    """A Redis that every client in this process reaches."""
    server = fakeredis.FakeServer()

    def connect(_uri: str, **options: Any) -> fakeredis.FakeRedis:
        return fakeredis.FakeRedis(server=server, **options)

    monkeypatch.setattr(redis, "from_url", connect)
    return server


def test_processes_share_a_redis(server: fakeredis.FakeServer) -> None:
    pytest.importorskip("lupa", reason="the imitation of Redis runs its scripts with lupa")

    async def scenario() -> None:
        first, second = RateLimits("redis://cache.example:6379"), RateLimits("redis://cache.example:6379")
        assert (await first.take("x", 100, 60)).remaining == 40
        refused = await second.take("x", 100, 60)
        assert (refused.allowed, refused.remaining) == (False, 40)
        assert 60 < refused.retry_seconds <= 80  # 60 characters weigh 40 after 20 s of the next minute
        assert (await second.take("x", 100, 40)).allowed
        assert not (await first.take("x", 100, 1)).allowed

    asyncio.run(scenario())
    assert server.connected


def test_without_its_redis_a_process_counts_by_itself(
    server: fakeredis.FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(access_module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    asked: list[bool] = []
    shared_take = access_module._take

    def take(storage: Any, *arguments: Any) -> Any:
        asked.append(not isinstance(storage, MemoryStorage))
        return shared_take(storage, *arguments)

    monkeypatch.setattr(access_module, "_take", take)
    server.connected = False
    configure_logging("info")

    async def scenario() -> None:
        limits = RateLimits("redis://cache.example:6379")
        assert (await limits.take("x", 100, 60)).allowed
        assert not (await limits.take("x", 100, 60)).allowed
        now.seconds = 5.0
        assert not (await limits.take("x", 100, 60)).allowed

    asyncio.run(scenario())
    assert asked == [True, False, False, True, False]  # it is left alone for 5 seconds after it failed
    assert capsys.readouterr().err.count("the limits storage failed") == 2


@pytest.mark.parametrize("storage", ["nonsense", "redis:/x", "memcached://localhost"])
def test_a_storage_that_cannot_be_used_is_a_wrong_setting(make_app: MakeApp, storage: str) -> None:
    with pytest.raises(ConfigurationError, match="limits_storage must be"):
        make_app(limits_storage=storage)
