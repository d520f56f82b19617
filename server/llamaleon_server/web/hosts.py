"""What browsers must not do for another site: reach this server under a name of theirs, or from their pages.

A page of evil.example can make its own name point at 127.0.0.1 (DNS rebinding) and then talk to a server
there as its own origin. The `Host` header gives it away: an address, or a name that nobody can own in public.
It can also post to 127.0.0.1 blindly, without CORS: the `Origin` header gives that away.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from llamaleon_server.errors import HostRefused, LlamaleonError, OriginRefused
from llamaleon_server.web.errors import foreseen

LOCAL_NAMES = ("localhost", "local", "internal")  # and what ends in `.` and one of them: never public names
ANY = "*"


class Browsers:
    """Refuses requests whose `Host` or `Origin` is a stranger's. Who sends neither is no browser."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self.app = app
        self._any_host, self._any_origin = ANY in hosts, ANY in origins
        self._hosts = {host.lower() for host in hosts} | {socket.gethostname().lower()}
        self._origins = set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            response = await foreseen(Request(scope), refusal)
            await response(scope, receive, send)

    def _refusal(self, headers: Headers) -> LlamaleonError | None:
        host = headers.get("host", "")
        if host and not self._is_ours(host):
            return HostRefused(
                f"This server does not answer to the name {host!r}. If it is yours, start it with "
                "--allowed-host NAME."
            )
        origin = headers.get("origin")
        if origin is None or self._any_origin or origin in self._origins or _netloc(origin) == host.lower():
            return None
        return OriginRefused(
            f"Pages of {origin!r} may not use this server. If they should, start it with "
            f"--cors-origin {origin}."
        )

    def _is_ours(self, host: str) -> bool:
        if self._any_host:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # brackets that do not match
            return False
        return name in self._hosts or _is_address(name) or name.rsplit(".", 1)[-1] in LOCAL_NAMES


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
