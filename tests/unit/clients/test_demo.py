from __future__ import annotations

import io
import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer, Json, event
from tests.unit.clients.test_training import EVALUATION, PARITY

from llamaleon_clients import demo, local, training
from llamaleon_clients.api import Client
from llamaleon_clients.demo import Demo, DemoFailed, shown

ROWS = {
    f"Informe {number}: señal de {number} €": f'{{"gasto_eur": {number}, "cliente": "Peña"}}'
    for number in range(10)
}


@pytest.fixture
def fast_demo(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """Ten rows, and a server whose adapter knows their answers."""
    lines = [
        json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
        for q, a in ROWS.items()
    ]
    for name in ("reports_train.jsonl", "reports_heldout.jsonl"):
        (tmp_path / name).write_text("\n".join(lines) + "\n", "utf-8")
    monkeypatch.setattr(demo, "DATA", tmp_path)
    monkeypatch.setattr(training, "POLL_S", 0.0)
    server.models["nano+extractor"] = {"id": "nano+extractor", "parent": "nano"}
    server.script = [[event(1, "Parity", PARITY), event(2, "Done", {"evaluation": EVALUATION})]]

    def reply(body: Json) -> str:
        return "No sé, ¿qué?" if body["model"] == "nano" else ROWS[body["messages"][-1]["content"]]

    server.reply = reply
    previous = signal.getsignal(signal.SIGTERM)
    yield server
    signal.signal(signal.SIGTERM, previous)


def run(server: FakeServer) -> str:
    written = io.StringIO()
    with Client(server.url) as client:
        Demo(client, Console(file=written, width=80)).run()
    return written.getvalue()


def test_the_demo_speaks_spanish_in_eighty_columns(
    fast_demo: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", "es")
    text = run(fast_demo)

    assert "3. Volver a preguntar" in text
    assert "nano: equivocada" in text
    assert "10 de 10" in text
    assert max(len(line) for line in text.splitlines() if ".create(" not in line) <= 80


def test_demo_shows_before_and_after_in_eighty_columns(fast_demo: FakeServer) -> None:
    text = run(fast_demo)

    assert "nano: wrong" in text
    assert "nano+extractor: exact" in text
    assert "asked through the openai package" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["exact", "match", "0", "of", "10", "10", "of", "10"] in rows
    assert max(len(line) for line in text.splitlines() if ".create(" not in line) <= 80


def test_demo_trains_with_its_own_constants(fast_demo: FakeServer) -> None:
    run(fast_demo)

    body = next(body for _, kind, body in fast_demo.requests if kind == "job")
    assert body["method"]["supervised"]["hyperparameters"] == demo.HYPERPARAMETERS
    assert (body["model"], body["suffix"]) == ("nano", "extractor")


def test_an_adapter_that_did_not_learn_fails_the_demo(fast_demo: FakeServer) -> None:
    wrong = list(ROWS)[:2]
    knowing = fast_demo.reply
    fast_demo.reply = lambda body: "{}" if body["messages"][-1]["content"] in wrong else knowing(body)

    with pytest.raises(DemoFailed, match="8 of 10 held-out reports came out right; 90% are expected"):
        run(fast_demo)


def test_long_answers_are_cut_and_json_is_laid_out() -> None:
    assert shown("bla " * 500).endswith(" …")
    assert len(shown("bla " * 500)) == demo.SHOWN_CHARACTERS + 2
    assert shown('{"año": 1, "b": [2]}') == '{\n "año": 1,\n "b": [2]\n}'
    assert shown("[1]") == "[1]"
    assert shown("  ") == "(an empty answer)"


@pytest.mark.parametrize("keep", [False, True])
def test_the_command_leaves_nothing_behind_unless_asked(
    fast_demo: FakeServer, llamaleon: Llamaleon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keep: bool
) -> None:
    homes: list[Path] = []
    stopped: list[local.Running] = []

    def start(home: Path, *, port: int) -> tuple[local.Running, bool]:
        homes.append(home)
        return local.Running(fast_demo.url, None), True

    monkeypatch.setattr(local, "start", start)
    monkeypatch.setattr(local, "stop", stopped.append)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    result = llamaleon("demo", *(["--keep"] if keep else []))

    assert result.exit_code == 0, result.output
    assert [server.url for server in stopped] == ([] if keep else [fast_demo.url])
    assert homes[0].exists() == keep
    assert (f"LLAMALEON_HOME={homes[0]} llamaleon stop" in result.stdout) == keep


def test_a_failed_demo_exits_with_one(fast_demo: FakeServer, llamaleon: Llamaleon, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    fast_demo.reply = lambda body: "{}"
    monkeypatch.setattr(local, "start", lambda home, port: (local.Running(fast_demo.url, None), True))
    monkeypatch.setattr(local, "stop", lambda running: None)

    result = llamaleon("demo", "--home", str(tmp_path / "kept"))

    assert result.exit_code == 1
    assert "Error: only 0 of 10 held-out reports came out right" in result.stderr
