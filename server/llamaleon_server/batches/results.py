"""What a batch has done so far: a line for each request that has ended, appended as it ends.

A line that is whole was done, whatever happens to this process afterwards. One that broke off is removed, and
its request is run again. (A power cut may take the last seconds with it: those are run again, too.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_server.registry.batches import Counts, Tokens
from llamaleon_server.registry.blobs import disk_errors

log = logging.getLogger(__name__)


class Response(Struct, frozen=True, kw_only=True):
    status_code: int
    request_id: str
    body: Any


class RequestError(Struct, frozen=True, kw_only=True):
    code: str
    message: str


class Result(Struct, frozen=True, kw_only=True):
    """A line of the output file, or of the error file, as OpenAI has them."""

    id: str
    custom_id: str
    response: Response | None
    error: RequestError | None = None

    @property
    def succeeded(self) -> bool:
        return self.response is not None and self.response.status_code < 400

    @property
    def tokens(self) -> Tokens:
        body = self.response.body if self.response is not None else None
        usage = body.get("usage") if isinstance(body, dict) else None
        return _tokens(usage) if isinstance(usage, dict) else Tokens()


class _Line(Struct, frozen=True, kw_only=True):
    line: int
    result: Result


class _Place(Struct, frozen=True):
    offset: int
    size: int
    succeeded: bool
    ran: bool


class Results:
    """Methods write a line or read a few: short enough for the event loop, except `__init__` and `write`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[int, _Place] = {}  # by the number of the request's line
        self.tokens = Tokens()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        whole = 0
        for offset, line in _whole_lines(path):
            self._note(msgspec.json.decode(line, type=_Line), offset, len(line))
            whole = offset + len(line)
        self._file = path.open("r+b")
        self._file.truncate(whole)
        self._file.seek(whole)

    def __contains__(self, line: int) -> bool:
        return line in self._places

    def counts(self, total: int) -> Counts:
        completed = sum(place.succeeded for place in self._places.values())
        ran = sum(place.ran for place in self._places.values())
        return Counts(total=total, completed=completed, failed=ran - completed)

    def add(self, line: int, result: Result) -> None:
        """Raises: StorageFull."""
        entry = _Line(line=line, result=result)
        data = msgspec.json.encode(entry) + b"\n"
        offset = self._file.tell()
        with disk_errors("a batch's results"):
            self._file.write(data)
            self._file.flush()
        self._note(entry, offset, len(data))

    def write(self, write: Callable[[bytes], None], *, succeeded: bool) -> int:
        """In the order of the input: those that succeeded, or the others. Returns how many."""
        wanted = sorted(line for line, place in self._places.items() if place.succeeded is succeeded)
        with self._path.open("rb") as file:
            for line in wanted:
                place = self._places[line]
                file.seek(place.offset)
                entry = msgspec.json.decode(file.read(place.size), type=_Line)
                write(msgspec.json.encode(entry.result) + b"\n")
        return len(wanted)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # a line that the full disk refused already: it is not noted
            log.debug("%s: %s", self._path, error)

    def remove(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)

    def _note(self, entry: _Line, offset: int, size: int) -> None:
        result = entry.result
        self._places[entry.line] = _Place(offset, size, result.succeeded, result.response is not None)
        self.tokens = self.tokens.plus(result.tokens)


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield offset, line
            offset += len(line)


def _tokens(usage: dict[str, Any]) -> Tokens:
    """Of a chat, a text completion or embeddings; or of a response."""
    asked = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    said = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    return Tokens(
        input_tokens=usage.get("prompt_tokens") or usage.get("input_tokens") or 0,
        cached_tokens=asked.get("cached_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or usage.get("output_tokens") or 0,
        reasoning_tokens=said.get("reasoning_tokens") or 0,
    )
