"""The input of a batch: a request on each line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from llamaleon_server.registry.batches import LineError

MOST_REQUESTS = 50_000  # OpenAI's
MOST_ERRORS = 100  # enough to see what is wrong with a file


class Request(Struct, frozen=True, kw_only=True):
    custom_id: str
    method: str
    url: str
    body: Raw


class _Body(Struct, frozen=True, kw_only=True):
    model: str | None = None
    stream: bool | None = None
    background: bool | None = None


class Checked(Struct, frozen=True, kw_only=True):
    """`model`, if all requests have the same."""

    total: int
    model: str | None
    errors: list[LineError]


def requests(path: Path) -> Iterator[tuple[int, Request]]:
    """Numbered from 1; empty lines are none. Raises: msgspec.DecodeError, UnicodeDecodeError."""
    for number, line in _lines(path):
        yield number, msgspec.json.decode(line, type=Request)


def check(path: Path, endpoint: str) -> Checked:
    """Reads all of it. Takes a while for a long file: call it in a thread."""
    errors: list[LineError] = []
    seen: dict[str, int] = {}
    models: set[str | None] = set()
    total = 0
    for number, line in _lines(path):
        total += 1
        try:
            request = msgspec.json.decode(line, type=Request)
            body = msgspec.json.decode(request.body, type=_Body)
        except msgspec.ValidationError as error:
            errors.append(LineError(code="invalid_request", message=f"{error}.", line=number))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            errors.append(
                LineError(code="invalid_json_line", message="This line is not valid JSON.", line=number)
            )
        else:
            models.add(body.model)
            errors += _wrong(request, body, number, endpoint, seen.get(request.custom_id))
            seen.setdefault(request.custom_id, number)
        if len(errors) >= MOST_ERRORS:
            break
    if total > MOST_REQUESTS:
        errors.append(LineError(code="too_many_requests", message=f"A batch has at most {MOST_REQUESTS}."))
    if not total:
        errors.append(LineError(code="empty_file", message="The file has no requests."))
    model = next(iter(models)) if len(models) == 1 else None
    return Checked(total=total, model=model, errors=errors)


def _wrong(
    request: Request, body: _Body, number: int, endpoint: str, twin: int | None
) -> Iterator[LineError]:
    if request.method != "POST":
        yield LineError(code="invalid_method", message="It must be POST.", line=number, param="method")
    if request.url != endpoint:
        message = f"The batch is for {endpoint}, this request for {request.url}."
        yield LineError(code="mismatched_url", message=message, line=number, param="url")
    if twin is not None:
        message = f"Line {twin} has the custom_id {request.custom_id!r} already."
        yield LineError(code="duplicate_custom_id", message=message, line=number, param="custom_id")
    for field in ("stream", "background"):
        if getattr(body, field):
            message = f"`{field}` is not possible in a batch."
            yield LineError(code="invalid_request", message=message, line=number, param=f"body.{field}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            stripped = line.strip()
            if number == 1:
                stripped = stripped.removeprefix(b"\xef\xbb\xbf")
            if stripped:
                yield number, stripped
