"""A real server process for tests: `python -m llamaleon_server` on a free port, in a home of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RunningServer:
    """Starts on entry, stops on exit; `kill()` is `kill -9`; `start()` again takes the same home and port."""

    def __init__(self, home: Path, arguments: Sequence[str] = (), *, discover: bool = False) -> None:
        """`discover`: also serve what this machine's other programs have; most tests want to be alone."""
        self.home = home
        self.arguments = (*arguments, "--discover" if discover else "--no-discover")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home.parent / f"{home.name}-server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        where = ["--home", str(self.home), "--port", str(self.port)]
        return [sys.executable, "-m", "llamaleon_server", *where, *self.arguments]

    def start(self, timeout_s: float = 30.0) -> RunningServer:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"the server exited with {self.process.returncode}:\n{self.log.read_text()}"
                )
            try:
                httpx.get(f"{self.url}/health", timeout=1.0).raise_for_status()
                return self
            except httpx.TransportError:
                time.sleep(0.05)
        raise TimeoutError(f"no /health within {timeout_s} s:\n{self.log.read_text()}")

    def kill(self) -> None:
        """As `kill -9`: nothing is cleaned up."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def __enter__(self) -> RunningServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for trainer in self.processes("llamaleon_trainer"):
            trainer.kill()  # trainers outlive their server by design; not those of a test

    def openai(self, **options: Any) -> Any:
        """An ordinary OpenAI client that points here."""
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key="unused", **options)

    def processes(self, module: str) -> list[psutil.Process]:
        """Living processes that run `-m module` for this server's home: children, or detached trainers."""
        found = []
        for process in psutil.process_iter(["cmdline", "ppid"]):
            line = " ".join(process.info["cmdline"] or ())
            mine = str(self.home) in line or (self.process and process.info["ppid"] == self.process.pid)
            if f"-m {module}" in line and mine and process.pid != os.getpid():
                found.append(process)
        return found
