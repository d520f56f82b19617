"""One server for the tests that only talk to it; tests that kill things start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data import shared
from tests.server import RunningServer


@pytest.fixture
def stories(tmp_path: Path) -> Iterator[RunningServer]:
    """A server with the real 260 k-parameter story model as base `stories260K-f32`."""
    model = shared("stories260K/stories260K-f32.gguf")
    with RunningServer(tmp_path / "home", ["--model", str(model)]) as server:
        yield server


@pytest.fixture
def exact(tmp_path: Path) -> Iterator[RunningServer]:
    """The same in full precision: an F16 cache and flash attention round by the shape of a batch."""
    model = shared("stories260K/stories260K-f32.gguf")
    settings = ["--model", str(model), "--kv-type", "f32", "--no-flash-attention"]
    with RunningServer(tmp_path / "exact", settings) as server:
        yield server
