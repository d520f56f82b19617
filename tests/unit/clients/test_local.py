"""Finding, starting and stopping a server, against a real process that only answers `/health`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer

from llamaleon_clients import local
from llamaleon_clients.errors import ClientError, StartFailed

# A package `llamaleon_server` that listens, records itself as the real one does, and answers every GET.
SERVER = """
import argparse, http.server, json, os, pathlib
parser = argparse.ArgumentParser()
for name in ("--home", "--host", "--port"):
    parser.add_argument(name)
options = parser.parse_args()
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"status": "ok", "object": "list", "data": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer((options.host, int(options.port)), Health)
url = f"http://{options.host}:{server.server_port}"
(pathlib.Path(options.home) / "server.json").write_text(json.dumps({"pid": os.getpid(), "url": url}))
server.serve_forever()
"""
BROKEN = "import sys; print('the disk is full, señor', file=sys.stderr); sys.exit(3)"


@pytest.fixture
def program(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`python -m llamaleon_server` runs this file; ports are free ones."""
    package = tmp_path / "path" / "llamaleon_server"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(local, "PORT", local.free_port(0))
    return package / "__main__.py"


def test_start_find_stop(program: Path, home: Path) -> None:
    assert local.find(home) is None
    running, started = local.start(home)
    try:
        assert started
        assert local.find(home) == running
        assert local.start(home) == (running, False), "the one that runs is used"
    finally:
        local.stop(running)

    assert running.pid is not None
    assert not psutil.pid_exists(running.pid)
    assert local.find(home) is None


def test_commands_start_a_server_and_say_so(llamaleon: Llamaleon, program: Path, home: Path) -> None:
    try:
        first = llamaleon("ls")
        second = llamaleon("ls")
    finally:
        stopped = llamaleon("stop")

    assert first.exit_code == 0, first.output
    assert first.stderr.count("\n") == 1
    assert "stop it with `llamaleon stop`" in first.stderr
    assert str(home / "server.log") in first.stderr
    assert second.stderr == ""
    assert stopped.stdout.startswith("Stopped the server at http://127.0.0.1:")
    assert llamaleon("stop").stdout == "No server is running.\n"


def test_a_server_that_does_not_start_shows_its_log(program: Path, home: Path) -> None:
    program.write_text(BROKEN)

    with pytest.raises(StartFailed, match="exit code 3") as caught:
        local.start(home)

    assert "  the disk is full, señor" in str(caught.value)


def test_a_taken_port_is_avoided(program: Path, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind((local.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert local.free_port(port) != port


def test_only_a_llamaleon_server_is_stopped(home: Path) -> None:
    with pytest.raises(ClientError, match="is not a Llamaleon server"):
        local.stop(local.Running("http://127.0.0.1:1", os.getpid()))


def test_a_stale_record_is_no_server(home: Path, server: FakeServer) -> None:
    home.mkdir()
    (home / "server.json").write_text(json.dumps({"pid": os.getpid(), "url": "http://127.0.0.1:9"}))
    assert local.find(home) is None

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(60)
    (home / "server.json").write_text(json.dumps({"pid": gone.pid, "url": server.url}))
    assert local.find(home) is None, "another home's server listens there now"

    (home / "server.json").write_text('{"pid": ')
    assert local.find(home) is None


def test_the_default_port_counts_only_for_the_default_home(
    home: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PORT", int(server.url.rsplit(":", 1)[1]))
    assert local.find(home) is None, "$LLAMALEON_HOME is set: another home's server is not meant"

    monkeypatch.delenv("LLAMALEON_HOME")
    assert local.find(home) == local.Running(server.url, None)


def test_serve_becomes_the_server(llamaleon: Llamaleon, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: called.append(arguments))
    options = (
        "--port 0 --home /h --gpu-layers 0 --context 4096 --parallel 4 --kv-tokens 9000 --batch-tokens 256 "
        "--step-target 0.1 --bank-ranks 64 --adapter-ram 2GiB --prefix-ram 0 --threads 2 "
        "--kv-type q8_0 --queue-limit 9 --idle-unload 30.0 --log-level debug --no-flash-attention "
        "--no-speculation --mixing --model a.gguf --model b --watch /w"
    )

    result = llamaleon("serve", *options.split())

    assert result.exit_code == 0, result.output
    assert called == [[sys.executable, "-m", "llamaleon_server", "--host", "127.0.0.1", *options.split()]]


def test_convert_becomes_the_converter(
    llamaleon: Llamaleon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: called.append(arguments))
    base = tmp_path / "base.gguf"
    base.touch()

    result = llamaleon("convert", str(tmp_path), "--base", str(base), "-o", "out.gguf", "--json")
    missing = llamaleon("convert", str(tmp_path / "no"), "--base", str(base), "-o", "out.gguf")

    assert result.exit_code == 0, result.output
    assert called == [
        [sys.executable, "-m", "llamaleon_convert", str(tmp_path), "--base", str(base), "-o", "out.gguf",
         "--json"]
    ]  # fmt: skip
    assert missing.exit_code == 1
    assert "does not exist" in missing.stderr
