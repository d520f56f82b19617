"""Whether a trainer runs, whoever started it, and how it is stopped."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.jobs.sidecar import LOCK_FILE, LOG_FILE, PID_FILE, Identity, Sidecar

SLEEP = "import time; time.sleep(60)"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def test_a_process_of_our_own_is_seen_and_stopped(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path, python(SLEEP))
    assert not sidecar.begun
    sidecar.start()
    assert sidecar.begun
    assert sidecar.alive()
    assert Sidecar(tmp_path).alive(), "another server finds it by its id"
    await sidecar.stopped(grace_s=0.05)
    assert not sidecar.alive()
    assert sidecar.exit_code == -9
    assert sidecar.how_it_died() == "by signal 9"
    assert not Sidecar(tmp_path).alive()


async def test_one_that_an_earlier_server_started_is_stopped_too(tmp_path: Path) -> None:
    earlier = Sidecar(tmp_path, python(SLEEP))
    earlier.start()
    await Sidecar(tmp_path).stopped(grace_s=0.05)
    assert earlier.exit_code == -9


async def test_one_that_is_told_to_stop_while_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job was cancelled: nobody waits for the thread any more that is starting it."""
    sidecar, begun, go_on = Sidecar(tmp_path, python(SLEEP)), threading.Event(), threading.Event()
    popen = subprocess.Popen

    def slow(*args: Any, **named: Any) -> subprocess.Popen[bytes]:
        begun.set()
        assert go_on.wait(30)
        return popen(*args, **named)

    monkeypatch.setattr(subprocess, "Popen", slow)
    starting = asyncio.create_task(asyncio.to_thread(sidecar.start))
    assert await asyncio.to_thread(begun.wait, 30)
    sidecar.ask_to_stop()
    threading.Timer(0.1, go_on.set).start()
    await sidecar.stopped(grace_s=0.05)
    await starting
    assert sidecar.exit_code == -9
    await asyncio.to_thread(sidecar.start)
    assert sidecar.exit_code == -9, "it is not started again"


def test_an_id_used_again_by_another_process_is_not_ours(tmp_path: Path) -> None:
    mine = psutil.Process()
    (tmp_path / PID_FILE).write_bytes(msgspec.json.encode(Identity(os.getpid(), mine.create_time() - 100)))
    assert not Sidecar(tmp_path).alive()
    (tmp_path / PID_FILE).write_bytes(b"half")
    assert not Sidecar(tmp_path).alive()


def test_the_lock_alone_tells(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    with (tmp_path / LOCK_FILE).open("w") as lock:
        assert not sidecar.alive()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sidecar.alive()
        assert sidecar.found_another()
    assert not sidecar.alive()


def test_the_last_words_are_the_end_of_the_log(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    assert sidecar.last_words() == ""
    (tmp_path / LOG_FILE).write_text(
        "x" * 100_000 + "\n" + "\n".join(f"línea {n}" for n in range(20)) + "\n\n"
    )
    assert sidecar.last_words().splitlines() == [f"línea {n}" for n in range(14, 20)]


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="no-such-python") as caught:
        Sidecar(tmp_path, ("/no-such-python",)).start()
    assert caught.value.code == "trainer_missing"
