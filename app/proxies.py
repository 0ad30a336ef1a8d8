"""What a trusted proxy says about the address that its clients used; what it says about the clients is uvicorn's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")


class ForwardedHostMiddleware:
    """Puts a trusted proxy's X-Forwarded-Host in the place of Host, so that absolute addresses lead back to it.

    It must come before anything that changes the client's address, since that tells who sent the header.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self.app = app
        self.trusted = [ip_network(network, strict=False) for network in trusted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._trusts(scope.get("client")):
            host = Headers(scope=scope).get("x-forwarded-host", "").split(",")[0].strip()
            if _HOST.fullmatch(host):
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope = {**scope, "headers": [*others, (b"host", host.encode("ascii"))]}
        await self.app(scope, receive, send)

    def _trusts(self, client: tuple[str, int] | None) -> bool:
        """Whether the other end of the connection is one of the trusted networks."""
        if client is None:
            return False
        try:
            address = ip_address(client[0])
        except ValueError:  # a socket of this machine has no address
            return False
        return any(address in network for network in self.trusted)
