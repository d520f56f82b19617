"""Who may do what: API keys and their scopes, and the folders that requests may load files from.

Without any key, everybody who reaches the server may do everything: that is for loopback only.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from llamaleon_server.errors import BadRequest, Forbidden, Unauthorized
from llamaleon_server.registry.keys import USED_EVERY_S, KeyRecord, KeyStore, hash_of
from llamaleon_server.settings import Settings
from llamaleon_server.web.scopes import ORDER, Scope

GRANTED = "llamaleon.granted"  # in the ASGI scope: what the key of the request may do
ASSUMED = "llamaleon.assumed"  # likewise, of a batch's request, which has no key: what its creator may do


class Access:
    """Finds out what a request may do. `keys` are read for every request: revoking works at once."""

    def __init__(self, settings: Settings, keys: KeyStore) -> None:
        self._keys = keys
        self._single = None if settings.api_key is None else hash_of(settings.api_key)
        self._may_be_open = not settings.exposed or settings.insecure
        self._noted: dict[str, float] = {}  # id of a key -> when its use was last written down

    async def granted(self, headers: Headers) -> Scope:
        """`open` if there is no key and the server has some.

        Raises:
            Unauthorized: a key that this server does not know.
        """
        if self._may_be_open and self._single is None and not self._keys.any():
            return "admin"
        key = _key_of(headers)
        if key is None:
            return "open"
        if self._single is not None and hmac.compare_digest(self._single, hash_of(key)):
            return "admin"
        record = self._keys.find(key)
        if record is None:
            raise Unauthorized("Incorrect API key. `llamaleon keys list` shows which keys there are.")
        await self._note_use(record)
        return record.scope

    async def _note_use(self, record: KeyRecord) -> None:
        now = time.monotonic()
        if now - self._noted.get(record.id, -USED_EVERY_S) >= USED_EVERY_S:
            self._noted[record.id] = now
            await asyncio.to_thread(self._keys.note_use, record)


def _key_of(headers: Headers) -> str | None:
    """OpenAI's header, or Anthropic's."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key") or None


class NeedsScope:
    """Around one route."""

    def __init__(self, app: ASGIApp, access: Access, needed: Scope) -> None:
        self.app = app
        self._access = access
        self._needed = needed

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if self._needed != "open":
            scope[GRANTED] = scope.get(ASSUMED) or await self._access.granted(Headers(scope=scope))
            _check(scope[GRANTED], self._needed, f"{scope['method']} {scope['path']}")
        await self.app(scope, receive, send)


def may(request: Request, needed: Scope) -> bool:
    return ORDER.index(request.scope.get(GRANTED, "open")) >= ORDER.index(needed)


def require(request: Request, needed: Scope, what: str) -> None:
    """For what only some requests of a route do. Raises: Unauthorized, Forbidden."""
    _check(request.scope.get(GRANTED, "open"), needed, what)


def allow_path(request: Request, text: str, param: str) -> Path:
    """To be asked before anything is loaded from a path that a request names. It need not lead anywhere.

    Raises:
        BadRequest: no operating system would take it for a path.
        Forbidden: without `admin`; or the server is exposed, and the path in none of its allowed folders.
    """
    settings: Settings = request.app.state.services.settings
    require(request, "admin", "Loading by path")
    path = _usable(text, param)
    if not settings.exposed and not settings.allow_dirs:
        return path
    wanted = path.resolve()  # a link may lead anywhere
    if not any(wanted.is_relative_to(folder.expanduser().resolve()) for folder in settings.allow_dirs):
        folders = ", ".join(str(folder) for folder in settings.allow_dirs) or "none"
        raise Forbidden(
            f"`{param}`: this server loads files from its allowed folders only ({folders}). Start it with "
            f"--allow-dir {wanted.parent} to allow this one.",
            param=param,
        )
    return path


def _usable(text: str, param: str) -> Path:
    try:
        path = Path(text).expanduser()
        path.exists()
        path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long; a NUL or half a character; no such user
        raise BadRequest(f"`{param}` is no path that can be read: {_in_short(error)}", param=param) from error
    return path


def _in_short(error: Exception) -> str:
    return (error.strerror or "" if isinstance(error, OSError) else str(error)) or type(error).__name__


def _check(granted: Scope, needed: Scope, what: str) -> None:
    if ORDER.index(granted) >= ORDER.index(needed):
        return
    if granted == "open":
        raise Unauthorized(
            "You didn't provide an API key: send `Authorization: Bearer KEY` (or `x-api-key: KEY`). "
            "`llamaleon keys create NAME` makes one."
        )
    raise Forbidden(f"{what} needs a key with the scope `{needed}`; this one has `{granted}`.")
