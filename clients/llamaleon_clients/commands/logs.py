"""`llamaleon logs`: what the background server wrote."""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

POLL_S = 0.2

LOGS_HELP = """
Show the log of the server that was started in the background.

\b
  llamaleon logs -f
  llamaleon logs -n 20
"""


def register(app: typer.Typer) -> None:
    app.command(help=LOGS_HELP)(logs)


def logs(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="So many of the last lines.")] = 100,
) -> None:
    from llamaleon_clients.errors import BadInput
    from llamaleon_clients.local import home_dir
    from llamaleon_clients.words import say

    path = home_dir() / "server.log"
    if not path.exists():
        raise BadInput(
            say("{path} does not exist: no server was started in the background there.", path=path)
        )
    read = _show_last(path, lines)
    if follow:
        try:
            _follow(path, read)
        except KeyboardInterrupt:
            return


def _show_last(path: Path, count: int) -> int:
    """Print the last lines; how many bytes of the file have been read."""
    with path.open("rb") as file:
        last = deque(file, maxlen=count)
        read = file.tell()
    _write(b"".join(last))
    return read


def _follow(path: Path, read: int) -> None:
    """Also when the file is replaced or cut, as log rotation does: then from its beginning."""
    file = path.open("rb")
    try:
        file.seek(read)
        while True:
            if piece := file.read():
                _write(piece)
                continue
            time.sleep(POLL_S)
            try:
                now = path.stat()
            except FileNotFoundError:  # between two files
                continue
            if now.st_ino != _inode(file.fileno()) or now.st_size < file.tell():
                file.close()
                file = path.open("rb")
    finally:
        file.close()


def _inode(descriptor: int) -> int:
    import os

    return os.fstat(descriptor).st_ino


def _write(data: bytes) -> None:
    sys.stdout.write(data.decode("utf-8", "replace"))
    sys.stdout.flush()
