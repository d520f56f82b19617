"""Ollama's ways to say how long a model stays."""

from __future__ import annotations

import pytest

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.keep_alive import parse_keep_alive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (30, 30.0),
        (1.5, 1.5),
        ("0", 0.0),
        ("300", 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        (" 10s ", 10.0),
        (-1, None),
        ("-1", None),
        ("-5m", None),
        (10**400, None),
    ],
)
def test_every_form(value: object, seconds: float | None) -> None:
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize("value", ["soon", "", "5 parsecs", "m", "1" * 65, True, None, [], float("nan")])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(BadRequest, match="is no time") as caught:
        parse_keep_alive(value, "options.keep_alive")
    assert caught.value.param == "options.keep_alive"
