"""From the bytes of a request to a typed shape, or a `BadRequest` that names the field."""

from __future__ import annotations

import base64
import re
from typing import Any, TypeVar

import msgspec

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.depth import MOST_LEVELS, too_deep

Shape = TypeVar("Shape")

_PATH = re.compile(r" - at (?:`key` in )?`\$(?P<path>[^`]*)`$")
_FIELD = re.compile(r"required field `(?P<field>[^`]*)`")
_POSITION = re.compile(r"\(byte (?P<byte>\d+)\)$")


def decode(body: bytes, shape: type[Shape]) -> Shape:
    """Fields that the shape does not know are ignored: clients send what other servers understand.

    Raises:
        BadRequest: malformed JSON, with the place; a wrong type or range, with the field in `param`.
    """
    if too_deep(body):
        raise BadRequest(f"The body is nested deeper than {MOST_LEVELS} levels.")
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from error
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {_with_line(str(error), body)}") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: byte {error.start} cannot be decoded.") from error
    except RecursionError as error:
        raise BadRequest("The body is nested too deeply.") from error


def convert(value: Any, shape: type[Shape], place: str) -> Shape:
    """A part of a request that was decoded already; `place` is where it stands in it, such as `input[3]`.

    Raises: BadRequest, with the whole path of the field in `param`.
    """
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error), place) from error


def bytes_of(text: str, place: str) -> bytes:
    """What base64 stands for; `place` is the field that holds it. Raises: BadRequest."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError as error:  # not of that alphabet, or not even ASCII
        raise BadRequest(f"`{place}` is not base64: {error}.", param=place) from error
    if not decoded:
        raise BadRequest(f"`{place}` must not be empty.", param=place)
    return decoded


def _wrong_field(reason: str, place: str = "") -> BadRequest:
    """msgspec says ``Expected `int`, got `str` - at `$.messages[0].content` ``."""
    found = _PATH.search(reason)
    path = found["path"].removesuffix("[...]") if found else ""  # "[...]": some key of an object
    path = f"{place}{path}".lstrip(".")
    reason = reason[: found.start()] if found else reason
    missing = _FIELD.search(reason)
    if missing:
        path = f"{path}.{missing['field']}".lstrip(".")
        return BadRequest(f"`{path}` is required.", param=path)
    if not path:
        return BadRequest(f"The body has the wrong shape: {reason}.")
    return BadRequest(f"`{path}`: {reason[:1].lower()}{reason[1:]}.", param=path)


def _with_line(reason: str, body: bytes) -> str:
    found = _POSITION.search(reason)
    if found is None:
        return f"{reason}."
    before = body[: int(found["byte"])]
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"{reason[: found.start()].rstrip()} (line {line}, column {column})."


def refuse(param: str, why: str) -> BadRequest:
    """For a field that would otherwise be ignored although it changes the answer."""
    return BadRequest(f"`{param}` is not supported: {why}", param=param)


def is_set(value: Any) -> bool:
    """Whether a client meant something by an optional field: None, empty lists and objects say nothing."""
    return value is not None and value is not False and value not in ([], {})
