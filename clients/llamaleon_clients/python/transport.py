"""What the two clients share below their calls: address, key, errors, rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

from llamaleon_clients.api import connection, refused
from llamaleon_clients.errors import BadInput, ServerUnreachable
from llamaleon_clients.measure import Example, is_exact, is_valid_json, read_examples
from llamaleon_clients.python.calls import Call, Value
from llamaleon_clients.python.records import Score
from llamaleon_clients.words import say

DEFAULT_URL = "http://127.0.0.1:11711"
Rows = str | Path | Sequence[Example]


def settings(base_url: str | None, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """Arguments of httpx's clients. `base_url` with or without `/v1`, as openai's clients have it.

    None: $LLAMALEON_URL, else the default port of this machine; the key's None: $LLAMALEON_API_KEY.

    Raises: BadInput.
    """
    return connection(base_url or os.environ.get("LLAMALEON_URL") or DEFAULT_URL, api_key, timeout_s)


def value_of(call: Call[Value], url: str, response: httpx.Response) -> Value:
    """Raises: ServerRefused, ServerUnreachable if another program, or another kind of answer, is there."""
    answer = checked(url, response)
    try:
        return call.read(answer)
    except (msgspec.ValidationError, KeyError, TypeError, AttributeError) as error:
        raise ServerUnreachable(url, say("the answer is not Llamaleon's")) from error


def checked(url: str, response: httpx.Response) -> Any:
    """The answer's JSON, or {"text": ...} of one that is text.

    Raises: ServerRefused, ServerUnreachable if another program answers there.
    """
    if response.is_error:
        raise refused(response)
    if response.headers.get("content-type", "").startswith("text/plain"):
        return {"text": response.text}
    try:
        return response.json()
    except ValueError as error:
        raise ServerUnreachable(url, say("the answer is not Llamaleon's")) from error


def upload_arguments(path: str | Path) -> dict[str, Any]:
    """Raises: BadInput if there is no such file."""
    path = Path(path).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(say("{file} cannot be read: {reason}", file=path, reason=error.strerror)) from error
    return {"files": {"file": (path.name, content)}, "data": {"purpose": "fine-tune"}}


def examples_of(rows: Rows) -> Sequence[Example]:
    return read_examples(Path(rows).expanduser()) if isinstance(rows, str | Path) else rows


def scored(examples: Sequence[Example], answers: Sequence[str]) -> Score:
    pairs = [(answer, example.expected) for answer, example in zip(answers, examples, strict=True)]
    of_json = bool(pairs) and all(is_valid_json(expected, expected) for _, expected in pairs)
    return Score(
        rows=len(pairs),
        exact=sum(is_exact(*pair) for pair in pairs),
        valid_json=sum(is_valid_json(*pair) for pair in pairs) if of_json else None,
    )
