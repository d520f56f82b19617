from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.clients.fake_server import FakeServer, running
from typer.testing import CliRunner, Result

from llamaleon_clients import training
from llamaleon_clients.cli import app

Llamaleon = Callable[..., Result]


@pytest.fixture(autouse=True)
def in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests read the English sentences, whatever the locale of who runs them."""
    monkeypatch.setenv("LLAMALEON_LANG", "en")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running() as fake:
        yield fake


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of its own; no server of this machine is found by accident."""
    folder = tmp_path / "home"
    monkeypatch.setenv("LLAMALEON_HOME", str(folder))
    monkeypatch.delenv("LLAMALEON_URL", raising=False)
    return folder


@pytest.fixture
def llamaleon(home: Path, monkeypatch: pytest.MonkeyPatch) -> Llamaleon:
    """The command, run in this process, 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(training, "POLL_S", 0.0)

    def run(*arguments: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=input, env={"NO_COLOR": "1"})

    return run
