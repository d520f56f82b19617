"""The conversation at a real (pseudo) terminal: line editing, Ctrl-C, the commands."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.clients.fake_server import FakeServer

COMMAND = "import sys; from llamaleon_clients.cli import main; sys.argv[0] = 'llamaleon'; main()"
WAIT_S = 60.0


class Terminal:
    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self.shown = ""
        self._pending = b""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Until `text` has appeared after what was waited for before."""
        wanted = text.encode()
        deadline = time.monotonic() + WAIT_S
        while wanted not in self._pending:
            assert time.monotonic() < deadline, f"{text!r} did not appear in {self._pending.decode()!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self._pending += os.read(self._master, 4096)
        before, _, self._pending = self._pending.partition(wanted)
        self.shown += (before + wanted).decode()


@contextmanager
def chat(url: str, home: Path) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "chat", "nano", "--url", url],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "LLAMALEON_HOME": str(home), "TERM": "dumb"},
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_conversation(server: FakeServer, tmp_path: Path) -> None:
    server.answer = ["Había", " una", " vez", " un ñu"]
    with chat(server.url, tmp_path) as terminal:
        terminal.wait_for(">>> ")
        terminal.type("¿Un cuento?\n")
        terminal.wait_for("Había una vez un ñu")
        terminal.wait_for(">>> ")
        terminal.type("¿Y luego?\n")
        terminal.wait_for("ñu")
        terminal.wait_for(">>> ")
        terminal.type("/clear\n")
        terminal.wait_for("forgotten")
        terminal.type("¿Otro?\n")
        terminal.wait_for("ñu")
        terminal.wait_for(">>> ")
        terminal.type("/exit\n")
        assert terminal.process.wait(WAIT_S) == 0

    asked = [[message["content"] for message in request[2]["messages"]] for request in server.requests]
    story = "Había una vez un ñu"
    assert asked == [["¿Un cuento?"], ["¿Un cuento?", story, "¿Y luego?"], ["¿Otro?"]]


def test_ctrl_c_stops_the_answer_and_not_the_conversation(server: FakeServer, tmp_path: Path) -> None:
    server.answer = ["Había", " una", " vez"]
    server.pause_s = 1.0
    with chat(server.url, tmp_path) as terminal:
        terminal.wait_for(">>> ")
        terminal.type("¿Un cuento?\n")
        terminal.wait_for("Había")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("(stopped)")
        terminal.wait_for(">>> ")
        server.pause_s = 0.0
        terminal.type("¿Y bien?\n")
        terminal.wait_for("Había una vez")
        terminal.wait_for(">>> ")
        terminal.type("\x04")
        assert terminal.process.wait(WAIT_S) == 0

    assert "vez" not in terminal.shown.split("(stopped)")[0]
    assert [message["role"] for message in server.requests[1][2]["messages"]] == ["user", "assistant", "user"]
