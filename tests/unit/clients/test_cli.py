from __future__ import annotations

import os
import resource
import subprocess
import sys
from importlib.metadata import version

from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer

HELP = "from llamaleon_clients.cli import main; import sys; sys.argv = ['llamaleon', '--help']; main()"


def test_help_names_every_command(llamaleon: Llamaleon) -> None:
    shown = llamaleon("--help").output

    commands = [
        "demo",
        "train",
        "jobs",
        "chat",
        "serve",
        "stop",
        "add",
        "ls",
        "ps",
        "pin",
        "unpin",
        "show",
        "rm",
        "convert",
    ]
    assert [name for name in commands if f"\n  {name} " not in shown] == []


def test_version(llamaleon: Llamaleon) -> None:
    assert llamaleon("--version").stdout == f"llamaleon {version('llamaleon')}\n"


def test_help_is_quick() -> None:
    """0.3 s is promised. Processor time, the best of three: other work may share the machine."""
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", HELP], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    assert min(took) < 0.3


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", HELP],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )

    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert loaded & {"httpx", "rich", "openai", "numpy", "psutil", "msgspec"} == set()


def test_examples_in_help_keep_their_lines(llamaleon: Llamaleon) -> None:
    shown = llamaleon("train", "--help").output

    assert "    llamaleon train reports.jsonl --base nano --name extractor\n" in shown


def test_an_error_of_the_server_is_one_line(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("chat", "nanno", "Hola", "--url", server.url)

    assert result.exit_code == 1
    assert result.stderr == ("Error: The model `nanno` does not exist. Nearest names: nano.\n")


def test_no_server_is_one_line(llamaleon: Llamaleon) -> None:
    result = llamaleon("ls", "--url", "http://127.0.0.1:9")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no server answers at http://127.0.0.1:9 (")
    assert result.stderr.count("\n") == 1


def test_another_program_at_the_url_is_told(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("ls", "--url", f"{server.url}/elsewhere")

    assert result.exit_code == 1
    assert "404" in result.stderr
    assert "Traceback" not in result.output
