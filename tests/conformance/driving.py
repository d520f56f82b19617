"""Sends a request as it is, in this process or through a socket, and judges what came back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message
from tests.conformance.generate import Asked

PATIENCE_S = 60.0


@dataclass
class Answered:
    """`problem` says what must never happen, and did."""

    status: int | None
    problem: str | None = None


def judged(asked: Asked, status: int, content_type: str, body: bytes) -> Answered:
    upstream = status == 502 and b"cannot be read" in body  # a pull: the outside world has nothing here
    if status == 500 or (status > 501 and not upstream):
        return Answered(status, f"{status}: {body[:300]!r}")
    if status >= 400 and asked.method != "HEAD":
        if content_type != "application/json":
            return Answered(status, f"an error of type {content_type!r}: {body[:300]!r}")
        try:
            if not json.loads(body)["error"]:
                return Answered(status, f"an error without words: {body[:300]!r}")
        except (ValueError, KeyError, TypeError):
            return Answered(status, f"an error in no known shape: {body[:300]!r}")
    return Answered(status)


# ---------------------------------------------------------------- in this process


async def through_asgi(app: ASGIApp, asked: Asked) -> Answered:
    """As uvicorn would hand it over."""
    path, _, query = asked.target.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"content-length", str(len(asked.body)).encode()), *asked.headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 11711),
        "state": {},
    }
    conversation = _Conversation(asked)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await app(scope, conversation.receive, conversation.send)
    except TimeoutError:
        return Answered(conversation.status, f"no end after {PATIENCE_S:.0f} s")
    except Exception as error:
        return Answered(conversation.status, f"{type(error).__name__}: {error}")
    if conversation.status is None or not conversation.ended:
        return Answered(conversation.status, "the answer was not finished")
    return judged(asked, conversation.status, conversation.content_type, bytes(conversation.body))


class _Conversation:
    def __init__(self, asked: Asked) -> None:
        size = -(-len(asked.body) // asked.chunks) or 1
        self._pieces = [asked.body[at : at + size] for at in range(0, len(asked.body), size)] or [b""]
        self.status: int | None = None
        self.content_type = ""
        self.body = bytearray()
        self.ended = False
        self._over = asyncio.Event()

    async def receive(self) -> Message:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            assert self.status is None, "two answers"
            self.status = message["status"]
            self.content_type = dict(message["headers"]).get(b"content-type", b"").decode("latin-1")
            # What HTTP cannot carry would end the connection.
            for name, value in message["headers"]:
                assert not {10, 13, 0} & {*name, *value}, f"a header with a line in it: {name!r}"
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                self.ended = True
                self._over.set()


# ---------------------------------------------------------------- through a socket


async def through_socket(port: int, asked: Asked, *, again: bool) -> Answered:
    """`again`: a second request follows on the same connection, which must not have been dropped."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await _through_socket(port, asked, again=again)
    except TimeoutError:
        return Answered(None, f"no end after {PATIENCE_S:.0f} s")
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        return Answered(None, f"dropped: {type(error).__name__}: {error}")
    except ValueError as error:
        return Answered(None, f"no HTTP came back: {error}")


async def _through_socket(port: int, asked: Asked, *, again: bool) -> Answered:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_head(asked, close=not again))
        for piece in _wire_pieces(asked):
            writer.write(piece)
            await writer.drain()
        status, headers, body = await _response(reader, asked.method)
        # "HTTP ends here" is an answer too, where what was sent is not HTTP: uvicorn says so in plain text.
        if status == 400 and body == b"Invalid HTTP request received.":
            return Answered(status)
        answered = judged(asked, status, headers.get("content-type", ""), body)
        if again and answered.problem is None and headers.get("connection") != "close":
            writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            status, _, _ = await _response(reader, "GET")
            if status != 200:
                return Answered(status, f"the connection was spoilt: {status}")
        return answered
    finally:
        writer.close()


def _head(asked: Asked, *, close: bool) -> bytes:
    lines = [f"{asked.method} ".encode() + asked.target.encode() + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in asked.headers]
    if asked.chunks > 1:
        lines.append(b"transfer-encoding: chunked")
    elif asked.body or asked.method not in ("GET", "HEAD"):
        lines.append(b"content-length: " + str(len(asked.body)).encode())
    if close:
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _wire_pieces(asked: Asked) -> list[bytes]:
    if asked.chunks == 1:
        return [asked.body]
    size = -(-len(asked.body) // asked.chunks) or 1
    pieces = [asked.body[at : at + size] for at in range(0, len(asked.body), size)]
    return [f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces] + [b"0\r\n\r\n"]


async def _response(reader: asyncio.StreamReader, method: str) -> tuple[int, dict[str, str], bytes]:
    """Raises: ValueError: not HTTP; asyncio.IncompleteReadError: cut off."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, status, *_ = head[0].split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(head[0])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    if int(status) == 100:
        return await _response(reader, method)
    if method == "HEAD" or int(status) in (204, 304):
        return int(status), headers, b""
    if headers.get("transfer-encoding") == "chunked":
        return int(status), headers, await _chunked(reader)
    if "content-length" in headers:
        return int(status), headers, await reader.readexactly(int(headers["content-length"]))
    return int(status), headers, await reader.read()


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip(), 16)
        body += (await reader.readexactly(size + 2))[:-2]
        if size == 0:
            return bytes(body)
