"""Settings that cannot be are refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llamaleon_server.settings import Settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("idle_unload_s", -1.0),
        ("idle_unload_s", math.nan),
        ("room_wait_s", -0.5),
        ("engine_start_timeout_s", 0.0),
        ("engine_start_timeout_s", math.inf),
        ("request_timeout_s", math.nan),
        ("port", -1),
        ("port", 65_536),
        ("max_models", 0),
        ("max_upload_bytes", 0),
        ("max_body_bytes", -1),
    ],
)
def test_what_cannot_be(field: str, value: float) -> None:
    values: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=f"{field} must be "):
        Settings(**values)


def test_what_may_be() -> None:
    settings = Settings(idle_unload_s=0.0, room_wait_s=0.0, request_timeout_s=None)
    assert (settings.idle_unload_s, settings.room_wait_s, settings.request_timeout_s) == (0.0, 0.0, None)
