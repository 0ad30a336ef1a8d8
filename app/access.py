"""Who may send how much: finds a request's key, holds it to its limits and quota, and reports what was used.

It translates nothing and reads no body: a route gives it the parameters that it has read. A key is never logged.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import (
    INVALID_KEY,
    MISSING_KEY,
    NOT_ADMIN,
    OVER_LIMIT,
    QUOTA_EXCEEDED,
    TOO_MANY_REQUESTS,
    Kind,
    RequestError,
)
from app.keys import ApiKey, KeyStore, current_month
from app.metrics import Metrics
from app.settings import Settings
from model import ConfigurationError

if TYPE_CHECKING:
    from limits.storage import Storage

NO_CHARACTER_LIMIT = 1_000_000_000_000
"""What :attr:`Usage.character_limit` is without a quota; DeepL's own services send this number."""

_ADMISSION = "dragoman.admission"
"""Key of the ASGI scope with the request's Admission."""
_KEY_HEADERS = ("x-api-key", "ocp-apim-subscription-key")
_KEY_SCHEMES = frozenset({"deepl-auth-key", "bearer"})
_KEY_PARAMETERS = ("api_key", "auth_key")
_WINDOW_SECONDS = 60
_STORAGES = ("redis://", "rediss://", "redis+unix://")
_ROUNDING_SECONDS = 1e-3
"""Less than this above a whole second is an error of the floating point, or does not matter."""
_STORAGE_TIMEOUT_SECONDS = 1.0
_STORAGE_PAUSE_SECONDS = 5.0
"""How long a limits storage that failed is left alone; meanwhile each process counts by itself."""

_logger = structlog.get_logger("app")


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    id: str = "anonymous"
    """The key's id, or the same word for all who have no key."""
    name: str = "anonymous"
    is_admin: bool = False
    key: ApiKey | None = None
    address: str = ""
    """Where the request came from; those without a key share limits by it. An IPv6 address stands for its /64."""


@dataclass(frozen=True)
class Usage:
    """What a caller has used of its quota. Without a key nothing is counted, and the numbers are 0."""

    character_count: int
    character_limit: int
    """NO_CHARACTER_LIMIT without a quota."""
    start: datetime
    """Begin of the month, in UTC."""
    end: datetime
    """Begin of the next month, in UTC."""


@dataclass
class Admission:
    """What a request was admitted for; the middleware reports it, and takes it back if nothing was answered."""

    caller: Caller | None = None
    month: str = ""
    requests: int = 0
    characters: int = 0
    window: _Window | None = None


@dataclass(frozen=True)
class _Window:
    """State of one rate limit after a request."""

    allowed: bool
    limit: int
    remaining: int
    reset_seconds: int
    """Time until the counting starts anew."""
    retry_seconds: int
    """Time until a refused request would be allowed."""


class Access:
    """The keys, limits and quotas of one service.

    Raises:
        ConfigurationError: a key is required but there is no data directory to keep keys in, or a setting names a
            storage that cannot be used.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        if settings.require_key and settings.data_directory is None:
            raise ConfigurationError("data_directory", "must be set when require_key is", None)
        self._settings = settings
        self._metrics = metrics
        self.keys = None if settings.data_directory is None else KeyStore(settings.data_directory)
        self._limits = RateLimits(settings.limits_storage)

    def close(self) -> None:
        """Close the database. Slow: call it off the event loop."""
        if self.keys is not None:
            self.keys.close()

    async def identify(self, request: Request, parameters: Mapping[str, Any] | None = None) -> Caller:
        """Return who sent the request, without taking anything from a limit.

        Raises:
            RequestError: the key is missing (where one is required), unknown, disabled or expired.
        """
        address = _shared_address(request)
        secret = find_key(request, parameters)
        if self.keys is None:  # nobody can have a key; one that is sent all the same is ignored, as LibreTranslate does
            return Caller(address=address)
        if secret is None:
            if self._settings.require_key:
                raise self._refusal(MISSING_KEY, self._missing_key_message(), {"WWW-Authenticate": "Bearer"})
            return Caller(address=address)
        key = await anyio.to_thread.run_sync(self.keys.find, secret)
        if key is None:
            if not self._settings.require_key and await anyio.to_thread.run_sync(self.keys.is_empty):
                return Caller(address=address)  # some clients cannot but send a key
            raise self._refusal(INVALID_KEY, "Invalid API key")
        if key.disabled:
            raise self._refusal(INVALID_KEY, "The API key is disabled")
        if key.expired():
            raise self._refusal(INVALID_KEY, "The API key has expired")
        return Caller(key.id, key.name, key.is_admin, key, address)

    async def admit(self, request: Request, characters: int = 0, parameters: Mapping[str, Any] | None = None) -> Caller:
        """Let a request through that has a valid key where one is needed, and room in its limits and quota.

        ``characters`` are taken from the rate limit at once, and from the month's quota unless the reply is an error.
        A request may be admitted several times, say first without characters; it counts as one.

        Args:
            request: is looked at for a key: its headers and its query string.
            characters: what it wants to have translated.
            parameters: its body, where that may hold a key.

        Raises:
            RequestError: of kind MISSING_KEY, INVALID_KEY, TOO_MANY_REQUESTS, OVER_LIMIT or QUOTA_EXCEEDED.
        """
        caller = await self.identify(request, parameters)
        admission: Admission = request.scope.setdefault(_ADMISSION, Admission())
        new_requests = 0 if admission.requests else 1
        await self._take_from_rate_limits(caller, admission, characters, new_requests)
        month = current_month()
        if caller.key is not None:
            await self.charge(caller, characters, requests=new_requests, month=month)
        admission.caller, admission.month = caller, month
        admission.characters += characters
        admission.requests = 1
        if new_requests:
            self._metrics.count_admission("admitted")
        return caller

    async def admit_admin(self, request: Request) -> Caller:
        """Let a request through that has a valid admin key; raises also what :meth:`admit` does.

        Raises:
            RequestError: of kind NOT_ADMIN: the key is no admin key, or nobody has one.
        """
        if self.keys is None or not await anyio.to_thread.run_sync(self.keys.has_admin):
            raise self._refusal(NOT_ADMIN, "no admin key is set up here: see `dragoman keys create --admin`")
        if find_key(request) is None:
            raise self._refusal(MISSING_KEY, "an admin key is needed", {"WWW-Authenticate": "Bearer"})
        caller = await self.admit(request)
        if not caller.is_admin:
            raise self._refusal(NOT_ADMIN, "the API key is not an admin key")
        return caller

    async def charge(self, caller: Caller, characters: int, *, requests: int = 0, month: str | None = None) -> None:
        """Take characters from the month's quota for work that no reply waits for, such as a document.

        Raises:
            RequestError: of kind QUOTA_EXCEEDED, or INVALID_KEY for a key that was deleted meanwhile; nothing was
                taken then.
        """
        if self.keys is None or caller.key is None:
            return
        quota = caller.key.characters_per_month
        take = partial(self.keys.take, caller.key.id, month or current_month(), characters, quota, requests)
        if not await anyio.to_thread.run_sync(take):
            if not quota:  # deleted since it was found
                raise self._refusal(INVALID_KEY, "Invalid API key")
            raise self._refusal(QUOTA_EXCEEDED, f"The quota of {quota} characters a month is used up")

    async def give_back(self, caller: Caller, characters: int, *, requests: int = 0, month: str | None = None) -> None:
        """Take back what :meth:`charge` took, for work that was not done."""
        if self.keys is None or caller.key is None:
            return
        give = partial(self.keys.give_back, caller.key.id, month or current_month(), characters, requests)
        await anyio.to_thread.run_sync(give)

    async def usage(self, caller: Caller) -> Usage:
        """Return what the caller has used this month."""
        month = current_month()
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        end = start.replace(year=start.year + 1, month=1) if start.month == 12 else start.replace(month=start.month + 1)
        if self.keys is None or caller.key is None:
            return Usage(0, NO_CHARACTER_LIMIT, start, end)
        used = await anyio.to_thread.run_sync(self.keys.usage, caller.key.id, month)
        return Usage(used.characters, caller.key.characters_per_month or NO_CHARACTER_LIMIT, start, end)

    async def _take_from_rate_limits(
        self, caller: Caller, admission: Admission, characters: int, requests: int
    ) -> None:
        """Take a request and its characters from the limits of a minute, or refuse them."""
        rules: Settings | ApiKey = self._settings if caller.key is None else caller.key
        who = caller.address if caller.key is None else caller.id
        costs = (
            ("requests", rules.requests_per_minute, requests),
            ("characters", rules.characters_per_minute, characters),
        )
        for unit, limit, cost in costs:
            if not limit or not cost:
                continue
            if cost > limit:
                raise self._refusal(
                    OVER_LIMIT, f"Invalid request: request ({cost}) exceeds text limit ({limit}) of a minute"
                )
            admission.window = window = await self._limits.take(f"{unit}:{who}", limit, cost)
            if not window.allowed:
                raise self._refusal(
                    TOO_MANY_REQUESTS,
                    f"{limit} {unit} per minute are allowed",
                    {"Retry-After": str(window.retry_seconds)},
                )

    def _missing_key_message(self) -> str:
        """Return what LibreTranslate says."""
        if self._settings.key_url:
            return f"Visit {self._settings.key_url} to get an API key"
        return "Please contact the server operator to get an API key"

    def _refusal(self, kind: Kind, detail: str, headers: Mapping[str, str] | None = None) -> RequestError:
        """Count a refusal and return it."""
        self._metrics.count_admission(kind.slug.replace("-", "_"))
        return RequestError(kind, detail, headers)


class RateLimits:
    """Sliding windows of a minute, in this process or in a storage that several share (``redis://``).

    A window of this kind needs two counters, whatever the cost: the count of the minute before is weighted by the part
    of it that the last 60 seconds still cover. A storage that fails is left alone for some seconds, in which each
    process counts by itself: the service goes on, with looser limits.
    """

    def __init__(self, storage: str = "memory://") -> None:
        self._own: Storage | None = None
        self._shared: Storage | None = None
        self._pause_until = 0.0
        if not storage.startswith("memory://"):
            self._shared = _connect(storage)

    async def take(self, identifier: str, limit: int, cost: int) -> _Window:
        """Take ``cost`` from the minute of ``identifier`` if ``limit`` allows it."""
        from limits.errors import StorageError

        if self._shared is not None and time.monotonic() >= self._pause_until:
            try:
                return await anyio.to_thread.run_sync(_take, self._shared, identifier, limit, cost)
            except StorageError as exception:
                self._pause_until = time.monotonic() + _STORAGE_PAUSE_SECONDS
                _logger.warning("the limits storage failed", exc_info=exception)
        if self._own is None:
            from limits.storage import MemoryStorage

            self._own = MemoryStorage()
        return _take(self._own, identifier, limit, cost)


def _connect(address: str) -> Storage:
    """Return a storage that gives up quickly: a request waits for it.

    Raises:
        ConfigurationError: the address is of no storage that is supported, or its library is not installed.
    """
    from limits.errors import ConfigurationError as UnknownStorageError
    from limits.storage import storage_from_string

    try:
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as exception:
        rule = "needs the extra redis: pip install 'dragoman[redis]'"
        raise ConfigurationError("limits_storage", rule, address.partition("://")[0]) from exception
    options: dict[str, Any] = {
        "socket_connect_timeout": _STORAGE_TIMEOUT_SECONDS,
        "socket_timeout": _STORAGE_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        if not address.startswith(_STORAGES):
            raise ValueError("unknown scheme")
        return storage_from_string(address, wrap_exceptions=True, **options)  # type: ignore[return-value]
    except (UnknownStorageError, ValueError) as exception:
        # Only the scheme is shown, since an address may hold a password.
        rule = f"must be memory:// or an address that begins with one of {', '.join(_STORAGES)}"
        raise ConfigurationError("limits_storage", rule, address.partition("://")[0]) from exception


def _take(storage: Storage, identifier: str, limit: int, cost: int) -> _Window:
    """Take ``cost`` from a window in ``storage``."""
    from limits import RateLimitItemPerMinute
    from limits.strategies import SlidingWindowCounterRateLimiter

    item = RateLimitItemPerMinute(limit)
    allowed = SlidingWindowCounterRateLimiter(storage).hit(item, identifier, cost=cost)
    state: Sequence[float] = storage.get_sliding_window(item.key_for(identifier), _WINDOW_SECONDS)  # type: ignore[attr-defined]
    previous, previous_left, current, current_left = state
    used = math.floor(previous * previous_left / _WINDOW_SECONDS + current)
    window_left = min(max(current_left - _WINDOW_SECONDS, 0.0), float(_WINDOW_SECONDS))
    return _Window(
        allowed=allowed,
        limit=limit,
        remaining=max(0, limit - used),
        reset_seconds=math.ceil(window_left - _ROUNDING_SECONDS),
        retry_seconds=_retry_seconds(previous, previous_left, current, window_left, limit - cost),
    )


def _retry_seconds(previous: float, previous_left: float, current: float, window_left: float, room: int) -> int:
    """Return the first whole second, at least 1, in which the weighted count is less than ``room + 1``.

    Within this window the count is ``current + previous * left / 60``, with ``left`` running to 0; in the next one it
    is ``current * left / 60``. The storage rounds it down, hence less than one more than there is room for.
    """
    if current <= room:
        wait = previous_left - (room + 1 - current) * _WINDOW_SECONDS / previous if previous else 0.0
    else:
        wait = window_left + _WINDOW_SECONDS - (room + 1) * _WINDOW_SECONDS / current
    return max(1, math.floor(wait + _ROUNDING_SECONDS) + 1)


class AccessMiddleware:
    """Tells callers what a request took from their limits, and gives it back when the reply is an error."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        admission = scope[_ADMISSION] = Admission()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400:  # before the reply, so that whoever has read it finds the usage right
                    await self._give_back(admission)
                MutableHeaders(scope=message).update(_headers(admission))
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            if not status:
                await self._give_back(admission)

    async def _give_back(self, admission: Admission) -> None:
        """Take a request back that was admitted and not answered."""
        if admission.caller is not None:
            await self.access.give_back(
                admission.caller, admission.characters, requests=admission.requests, month=admission.month
            )
            admission.caller, admission.characters = None, 0


def find_key(request: Request, parameters: Mapping[str, Any] | None = None) -> str | None:
    """Return the key that a request carries, from wherever clients put it; None without one.

    The places, the first that has a key wins: the headers ``Authorization`` (``DeepL-Auth-Key`` or ``Bearer``),
    ``X-API-Key`` and ``Ocp-Apim-Subscription-Key``; ``api_key`` and ``auth_key`` in the body, then in the query string.
    """
    scheme, _, credentials = request.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() in _KEY_SCHEMES and credentials.strip():
        return credentials.strip()
    candidates: list[Any] = [request.headers.get(name) for name in _KEY_HEADERS]
    for source in (parameters or {}, request.query_params):
        candidates += [source.get(name) for name in _KEY_PARAMETERS]
    return next((value.strip() for value in candidates if isinstance(value, str) and value.strip()), None)


def _shared_address(request: Request) -> str:
    """Return the client's address, or its network where one client has a whole network to itself."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return host


def _headers(admission: Admission) -> dict[str, str]:
    """Return the headers about limits; those about the limit that was looked at last, as that is the characters'."""
    headers: dict[str, str] = {}
    window = admission.window
    if window is not None:
        headers["X-RateLimit-Limit"] = str(window.limit)
        headers["X-RateLimit-Remaining"] = str(window.remaining)
        headers["X-RateLimit-Reset"] = str(window.reset_seconds)
    if admission.characters:
        headers["X-Metered-Usage"] = str(admission.characters)
    return headers
