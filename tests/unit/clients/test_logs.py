"""`logs` and `completion`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer

from llamaleon_clients import local
from llamaleon_clients.naming import model_names

COMMAND = [sys.executable, "-c", "import sys; from llamaleon_clients.cli import main; main()"]


def test_the_last_lines(llamaleon: Llamaleon, home: Path) -> None:
    home.mkdir()
    (home / "server.log").write_text("".join(f"línea {number}\n" for number in range(9)), encoding="utf-8")
    assert llamaleon("logs", "-n", "2").stdout == "línea 7\nlínea 8\n"
    assert llamaleon("logs", "-n", "0").stdout == ""


def test_no_log_is_told(llamaleon: Llamaleon) -> None:
    result = llamaleon("logs")
    assert result.exit_code == 1
    assert "no server was started" in result.stderr


def test_following_goes_on_when_the_log_is_replaced(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("uno\n")
    with subprocess.Popen(
        [*COMMAND, "logs", "-f"],
        env={**os.environ, "LLAMALEON_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "uno\n"
        with log.open("a") as file:
            file.write("dos\n")
        assert process.stdout.readline() == "dos\n"
        log.rename(tmp_path / "server.log.1")
        log.write_text("tres\n")
        assert process.stdout.readline() == "tres\n"
        process.terminate()


def test_names_are_completed_and_no_server_is_started(
    server: FakeServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_names("n") == []
    assert not home.exists()
    monkeypatch.setenv("LLAMALEON_URL", server.url)
    assert model_names("n") == ["nano"]
    monkeypatch.delenv("LLAMALEON_URL")
    monkeypatch.setattr(local, "find", lambda *_, **more: local.Running(server.url, None))
    assert model_names("n") == ["nano"]
    assert model_names("z") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(llamaleon: Llamaleon, shell: str) -> None:
    assert "_LLAMALEON_COMPLETE" in llamaleon("completion", shell).stdout


def test_bash_completes_commands(tmp_path: Path) -> None:
    """The script, in a real bash, asking a real `llamaleon`."""
    program = tmp_path / "llamaleon"
    program.write_text(f"#!{sys.executable}\nfrom llamaleon_clients.cli import main\nmain()\n")
    program.chmod(0o755)
    script = """
        eval "$(llamaleon completion bash)"
        COMP_WORDS=(llamaleon ser); COMP_CWORD=1; _llamaleon_completion llamaleon
        echo "${COMPREPLY[@]}"
    """
    variables = {**os.environ, "LLAMALEON_HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["serve"], done.stderr
