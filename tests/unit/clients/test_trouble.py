"""What goes wrong at a terminal is one line that names it, never a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer, error, running

from llamaleon_clients.console import out, print_table, table

COMMAND = "import sys; from llamaleon_clients.cli import main; sys.argv[0] = 'llamaleon'; main()"
WAIT_S = 60.0


@pytest.mark.parametrize(
    "url", ["localhost:11711", "http://[::1", "http://127.0.0.1:port", "http://", "ftp://x"]
)
def test_what_is_no_address_is_told(llamaleon: Llamaleon, url: str) -> None:
    result = llamaleon("ls", "--url", url)

    assert result.exit_code == 1
    assert result.stderr == f"Error: {url} is no server's address: write it as http://HOST:PORT.\n"


@pytest.mark.parametrize("key", ["clave-ñ", "key\r"])
def test_a_key_that_no_header_can_carry(
    llamaleon: Llamaleon, server: FakeServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("LLAMALEON_API_KEY", key)
    result = llamaleon("ls", "--url", server.url)

    assert result.exit_code == 1
    assert result.stderr == "Error: The API key has characters that no key has.\n"


def test_a_folder_is_no_file_of_rows(llamaleon: Llamaleon, server: FakeServer, tmp_path: Path) -> None:
    result = llamaleon("train", str(tmp_path), "--base", "nano", "--name", "x", "--url", server.url)

    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}: Is a directory\n"


def test_a_home_that_cannot_be(llamaleon: Llamaleon, home: Path) -> None:
    home.write_text("a file stands in its place")
    result = llamaleon("ls")

    assert result.exit_code == 1
    assert result.stderr == f"Error: {home}: File exists\n"


class Refusing(FakeServer):
    """Takes rows, and no job."""

    def routes(self) -> list[Route]:
        return [Route("/v1/files/{file}", self.remove, methods=["DELETE"]), *super().routes()]

    async def create_job(self, request: Request) -> Response:
        return error(400, "lora_r must be at least 1.", param="hyperparameters.lora_r")

    async def remove(self, request: Request) -> Response:
        self.requests.append(("DELETE", "file", request.path_params["file"]))
        return JSONResponse({"deleted": True})


def test_rows_of_a_job_that_is_refused_do_not_stay(llamaleon: Llamaleon, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    with running(Refusing()) as server:
        line = ["train", str(rows), "--base", "nano", "--name", "x", "--valid", "file-abc"]
        result = llamaleon(*line, "--rank", "0", "--url", server.url)

    assert "lora_r must be at least 1" in result.stderr
    removed = [name for method, kind, name in server.requests if (method, kind) == ("DELETE", "file")]
    assert removed == ["file-1"], "what was on the server before stays there"


def test_names_and_answers_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """No emoji in the name of an adapter called `key`; `[/INST]` is no markup of ours."""
    out().print("ft:nano:local:key:5e77f079", markup=False)
    made = table("NAME")
    made.add_row("ft:nano:local:key:1 [bold] [/INST]")
    print_table(made)

    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        *("ft:nano:local:key:5e77f079", "NAME", "ft:nano:local:key:1 [bold] [/INST]")
    ]


def test_nobody_reads_on(server: FakeServer, tmp_path: Path) -> None:
    """`llamaleon ls | head -1`: no trace, and nothing about a pipe."""
    for number in range(3000):  # more than a pipe holds
        server.models[f"m{number}"] = {"id": f"m{number}", "parent": None}
    for more in ([], ["--json"]):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "ls", "--url", server.url, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LLAMALEON_HOME": str(tmp_path)},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        process.wait(WAIT_S)
        assert said == b""


def test_a_closed_standard_output(server: FakeServer, tmp_path: Path) -> None:
    line = f'exec "{sys.executable}" -c "$0" stop --json >&-'
    environment = {**os.environ, "LLAMALEON_HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", line, COMMAND], check=False, env=environment, timeout=WAIT_S, stderr=subprocess.PIPE
    )
    assert b"reconfigure" not in done.stderr
