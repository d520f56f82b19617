"""`--json`: every command has it, standard output is one JSON document, and errors are JSON too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer, event

from llamaleon_clients import demo, local, training
from llamaleon_clients.api import Client
from llamaleon_clients.cli import app

WITHOUT = {
    "serve": "runs until it is stopped, and what it writes is its log",
    "logs": "prints the server's log as the server wrote it",
    "completion": "prints a shell's script",
}


def commands() -> Iterator[tuple[str, Any]]:
    """Each command that does something, by what is typed."""

    def walk(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, f"{prefix}{name} ")
            else:
                yield prefix + name, command

    yield from walk(typer.main.get_command(app), "")


def test_every_command_has_it_but_those_with_a_reason() -> None:
    without = {
        name for name, command in commands() if not any("--json" in one.opts for one in command.params)
    }
    assert without == WITHOUT.keys()


@pytest.fixture
def adapter(tmp_path: Path, server: FakeServer) -> Path:
    server.models["nano+sql"] = {"id": "nano+sql", "parent": "nano", "kind": "adapter"}
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("add otro FILE --base nano", {"kind": "adapter", "name": "nano+otro"}),
        ("add sql FILE", {"kind": "adapter", "name": "nano+sql"}),
        ("add big FILE --model", {"kind": "base", "name": "big"}),
        ("pin nano+sql", {"id": "nano+sql", "object": "adapter", "pinned": True}),
        ("unpin nano+sql", {"id": "nano+sql", "object": "adapter", "pinned": False}),
        ("rm nano+sql", {"name": "nano+sql", "kind": "adapter", "deleted": True}),
        ("rm nano", {"name": "nano", "kind": "base", "deleted": True}),
        ("cp nano mine", {"name": "mine"}),
        ("show mario --modelfile", {"name": "mario", "modelfile": "FROM nano\nSYSTEM ¡Hola!\n"}),
        ("show nano", {"name": "nano"}),
        ("ps", {"object": "list", "data": []}),
        ("chat nano Hola", {}),
        ("run nano Hola", {}),
    ],
)
def test_standard_output_is_one_document(
    llamaleon: Llamaleon, server: FakeServer, adapter: Path, line: str, expected: dict[str, Any]
) -> None:
    words = [str(adapter) if word == "FILE" else word for word in line.split()]
    result = llamaleon(*words, "--json", "--url", server.url)

    assert result.exit_code == 0, result.output
    assert expected.items() <= json.loads(result.stdout).items()
    assert result.stderr == ""


def test_stop_says_whether_there_was_one(
    llamaleon: Llamaleon, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(llamaleon("stop", "--json").stdout) == {"stopped": False, "url": None}
    monkeypatch.setattr(local, "find", lambda home: local.Running(server.url, 1))
    monkeypatch.setattr(local, "stop", lambda running: None)
    assert json.loads(llamaleon("stop", "--json").stdout) == {"stopped": True, "url": server.url}


def test_a_job_is_cancelled(llamaleon: Llamaleon, server: FakeServer, adapter: Path) -> None:
    with Client(server.url) as client:
        training.submit(client, training.TrainingRequest(data=adapter, base="nano", name="poeta"))
    printed = llamaleon("train", "--cancel", "ftjob-1", "--json", "--url", server.url).stdout
    assert json.loads(printed)["status"] == "cancelled"


def test_a_job_that_fails_is_printed_and_its_error_is_the_last_line(
    llamaleon: Llamaleon, server: FakeServer, adapter: Path
) -> None:
    server.script = [[event(1, "Created")]]
    server.outcome = {"status": "failed", "error": {"code": "worse_than_base", "message": "2.1 > 1.9"}}
    result = llamaleon("train", str(adapter), "--base", "nano", "--name", "x", "--json", "--url", server.url)

    assert result.exit_code == 1
    assert json.loads(result.stdout)["job"]["status"] == "failed"
    assert json.loads(result.stderr.splitlines()[-1]) == {
        "error": {
            "message": "the adapter was kept but not deployed: 2.1 > 1.9",
            "code": "worse_than_base",
        }
    }


def test_the_demo_tells_its_story_beside_its_result(
    llamaleon: Llamaleon, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"Informe": '{"a": 1}'}
    chat = [{"role": "user", "content": "Informe"}, {"role": "assistant", "content": '{"a": 1}'}]
    for name in ("reports_train.jsonl", "reports_heldout.jsonl"):
        (tmp_path / name).write_text(json.dumps({"messages": chat}) + "\n", "utf-8")
    monkeypatch.setattr(demo, "DATA", tmp_path)
    monkeypatch.setattr(local, "start", lambda home, port: (local.Running(server.url, None), True))
    monkeypatch.setattr(local, "stop", lambda running: None)
    server.models["nano+extractor"] = {"id": "nano+extractor", "parent": "nano"}
    server.reply = lambda body: "?" if body["model"] == "nano" else rows["Informe"]

    result = llamaleon("demo", "--json", "--home", str(tmp_path / "home"))

    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["answers"] == {"nano": "?", "nano+extractor": '{"a": 1}'}
    assert [one["exact"] for one in printed["scores"].values()] == [0, 1]
    assert set(printed["seconds"]) == {
        *("first_base", "training", "first_adapter", "score_base", "score_adapter")
    }
    assert "1. Ask the base model" in result.stderr


def test_what_the_server_refuses_has_its_code_and_field(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("chat", "nanno", "Hola", "--json", "--url", server.url)

    assert (result.exit_code, result.stdout) == (1, "")
    assert json.loads(result.stderr) == {
        "error": {
            "message": "The model `nanno` does not exist. Nearest names: nano.",
            "code": "model_not_found",
            "param": "model",
            "status": 404,
        }
    }


def test_nobody_there_is_json_as_well(llamaleon: Llamaleon) -> None:
    result = llamaleon("ls", "--json", "--url", "http://127.0.0.1:9")

    assert (result.exit_code, result.stdout) == (1, "")
    assert json.loads(result.stderr)["error"]["code"] == "server_unreachable"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ls --nope --json", "--nope"),
        ("cp onlyone --json", "DESTINATION"),
        ("train --json --base nano", "DATA, --base and --name are needed"),
        ("lss --json", "lss"),
    ],
)
def test_a_wrong_command_line_is_json_and_exit_code_two(llamaleon: Llamaleon, line: str, said: str) -> None:
    result = llamaleon(*line.split())

    assert (result.exit_code, result.stdout) == (2, "")
    error = json.loads(result.stderr)["error"]
    assert said in error["message"]
    assert error["code"] == "usage"


def test_what_is_asked_is_no_option(llamaleon: Llamaleon, server: FakeServer) -> None:
    """After `--` the text may be anything."""
    result = llamaleon("chat", "--url", server.url, "nanno", "--", "--json")

    assert result.stderr == "Error: The model `nanno` does not exist. Nearest names: nano.\n"


def test_stop_tells_of_training_that_goes_on(
    llamaleon: Llamaleon, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.jobs["ftjob-1"] = {"id": "ftjob-1", "status": "running"}
    server.jobs["ftjob-2"] = {"id": "ftjob-2", "status": "succeeded"}
    monkeypatch.setattr(local, "find", lambda home: local.Running(server.url, 1))
    monkeypatch.setattr(local, "stop", lambda running: None)
    result = llamaleon("stop", "--json")
    assert result.stderr == "Job ftjob-1 goes on training; the next server finishes it.\n"
    assert json.loads(result.stdout)["stopped"] is True
