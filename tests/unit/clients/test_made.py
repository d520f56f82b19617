"""`create`, `cp`, `rm` and `show --modelfile` of made models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer


def test_create_sends_the_text_and_where_it_lies(
    llamaleon: Llamaleon, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Modelfile").write_text("FROM nano\nSYSTEM ¡Hola!\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    result = llamaleon("create", "mario:latest", "--url", server.url)

    assert result.stdout == "Made mario.\n"
    assert "numa has no effect" in result.stderr
    body = {"name": "mario:latest", "modelfile": "FROM nano\nSYSTEM ¡Hola!\n", "folder": str(tmp_path)}
    assert server.requests == [("POST", "create", body)]


def test_create_reads_a_pipe(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("create", "mario", "-f", "-", "--json", "--url", server.url, input="FROM nano\n")

    assert json.loads(result.stdout)["name"] == "mario"
    assert server.requests[0][2]["modelfile"] == "FROM nano\n"


def test_create_shows_the_line_that_is_wrong(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("create", "mario", "-f", "-", "--url", server.url, input="FROM nano\nFOO x\n")

    assert (result.exit_code, result.stderr) == (
        1,
        "Error: Modelfile, line 2: FOO is no instruction. (field: modelfile)\n",
    )


def test_create_without_a_modelfile(
    llamaleon: Llamaleon, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = llamaleon("create", "mario", "--url", server.url)

    assert result.exit_code == 1
    assert "The Modelfile Modelfile does not exist" in result.stderr


def test_copied_listed_and_removed_without_a_question(llamaleon: Llamaleon, server: FakeServer) -> None:
    assert llamaleon("cp", "nano", "mine", "--url", server.url).stdout == "Copied nano to mine.\n"
    assert "made of nano" in llamaleon("ls", "--url", server.url).stdout
    assert llamaleon("rm", "mine:latest", "--url", server.url).exit_code == 1  # as the fake has it
    assert llamaleon("rm", "mine", "--url", server.url).stdout == "Removed mine.\n"
    assert server.requests[-1] == ("DELETE", "model", "mine")
    assert list(server.models) == ["nano"]


def test_show_prints_the_modelfile_alone(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("show", "mario", "--modelfile", "--url", server.url)

    assert result.stdout == "FROM nano\nSYSTEM ¡Hola!\n"
