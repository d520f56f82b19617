"""The server of this machine: find the one that runs, start one in the background, stop it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llamaleon_clients.api import Client
from llamaleon_clients.errors import ClientError, StartFailed
from llamaleon_clients.words import say

HOST = "127.0.0.1"
PORT = 11711
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
LOG_TAIL_LINES = 12
# Started here and meant to outlive this process; held, because a dropped Popen warns about a running child.
_started: dict[int, subprocess.Popen[bytes]] = {}


def home_dir() -> Path:
    return Path(os.environ.get("LLAMALEON_HOME") or "~/.llamaleon").expanduser()


@dataclass(frozen=True)
class Running:
    """A server that answered `/health`. `pid` is None when only its URL is known."""

    url: str
    pid: int | None


def find(home: Path, *, timeout_s: float = 2.0) -> Running | None:
    """The server that `home/server.json` names, else one on the default port; None if neither answers.

    The default port counts only while $LLAMALEON_HOME is unset: who names a home means no other's
    server.
    """
    recorded = _recorded(home)
    if recorded is not None and _healthy(recorded.url, timeout_s):
        return recorded
    if os.environ.get("LLAMALEON_HOME"):
        return None
    url = f"http://{HOST}:{PORT}"
    return Running(url, None) if _healthy(url, timeout_s) else None


def start(home: Path, *, port: int | None = None, arguments: tuple[str, ...] = ()) -> tuple[Running, bool]:
    """A server for `home`, and whether this call started it; it outlives this process.

    Raises:
        StartFailed: it ended, or did not answer in time; with the end of its log.
    """
    home.mkdir(parents=True, exist_ok=True)
    with _lock(home / "server.start.lock"):
        recorded = _recorded(home)
        if recorded is not None and _healthy(recorded.url):
            return recorded, False
        chosen = free_port(port or PORT)
        command = [sys.executable, "-m", "llamaleon_server", "--home", str(home)]
        command += ["--host", HOST, "--port", str(chosen), *arguments]
        log = home / "server.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        _started[process.pid] = process
        url = f"http://{HOST}:{chosen}"
        try:
            _wait_until_healthy(process, url, log)
        except BaseException:  # Ctrl-C, too: nobody would know of it
            process.terminate()
            raise
        return Running(url, process.pid), True


def stop(running: Running) -> None:
    """End the server gently, by force after half a minute.

    Raises:
        ClientError: its process is not known, or is no Llamaleon server any more.
    """
    if running.pid is None:
        raise ClientError(
            say("the server at {url} was not started from this home: stop it where it runs.", url=running.url)
        )
    import psutil

    try:
        process = psutil.Process(running.pid)
        if "llamaleon_server" not in " ".join(process.cmdline()):
            raise ClientError(
                say("process {pid} is not a Llamaleon server; nothing was stopped.", pid=running.pid)
            )
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
    except psutil.NoSuchProcess:
        pass  # it ended by itself
    except psutil.AccessDenied as error:
        raise ClientError(
            say("process {pid} belongs to another user; nothing was stopped.", pid=running.pid)
        ) from error
    child = _started.pop(running.pid, None)
    if child is not None:
        child.wait()


def free_port(wanted: int) -> int:
    """`wanted` if nobody listens there, else one that the system chooses."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise ClientError(say("no free port on {host}", host=HOST))


def _recorded(home: Path) -> Running | None:
    """None if the process is gone: after a `kill -9` another home's server may listen at that address."""
    try:
        record = json.loads((home / "server.json").read_bytes())
        url, pid = str(record["url"]), int(record["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never started here, or cut short: then the default port is asked
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's, and alive
        return Running(url, pid)
    except OSError:
        return None
    return Running(url, pid)


def _healthy(url: str, timeout_s: float = 2.0) -> bool:
    try:
        with Client(url, timeout_s=timeout_s) as client:
            return "status" in client.health()
    except ClientError:
        return False


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if _healthy(url):
            return
        if process.poll() is not None:
            said = say("the server ended at once (exit code {code}).", code=process.returncode)
            raise StartFailed(f"{said} {_tail(log)}")
        time.sleep(0.05)
    waited = f"{START_TIMEOUT_S:.0f}"
    said = say("the server did not answer at {url} within {seconds} s.", url=url, seconds=waited)
    raise StartFailed(f"{said} {_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    if not lines:
        return say("See {log}.", log=log)
    return "\n".join([say("The end of {log}:", log=log), *(f"  {line}" for line in lines)])


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Two commands at once must not start two servers on one home."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
