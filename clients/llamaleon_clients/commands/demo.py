"""`llamaleon demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamaleon_clients.options import AsJson

if TYPE_CHECKING:
    from llamaleon_clients.demo import Demo

DEMO_HELP = """
See the whole loop, offline, in a few minutes.

The small model that ships with Llamaleon is asked for the fields of a report, learns it from 400 examples,
and is asked again.
"""


def register(app: typer.Typer) -> None:
    app.command(help=DEMO_HELP)(demo)


def demo(
    home: Annotated[
        Path | None, typer.Option(help="Folder for its files. [default: a temporary one, removed afterwards]")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the server and its files for you to try.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    import os
    import shutil
    import signal
    import sys
    import tempfile
    import time

    from llamaleon_clients import local
    from llamaleon_clients.api import Client
    from llamaleon_clients.console import human_seconds, plain_console
    from llamaleon_clients.demo import Demo
    from llamaleon_clients.words import say

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that `finally` runs
    for variable in ("NO_PROXY", "no_proxy"):  # a proxy cannot reach this machine's loopback
        os.environ[variable] = ",".join(filter(None, (os.environ.get(variable), local.HOST)))
    started = time.monotonic()
    console = plain_console(stderr=as_json)  # its story is then beside the result
    folder = home or Path(tempfile.mkdtemp(prefix="llamaleon-demo-"))
    running = None
    try:
        running, _ = local.start(folder, port=local.free_port(0))
        took = f"{time.monotonic() - started:.1f} s"
        console.print(
            say("Server at {url}, files in {folder} ({time})", url=running.url, folder=folder, time=took),
            soft_wrap=True,
        )
        with Client(running.url) as client:
            _show(Demo(client, console), as_json)
        took = human_seconds(time.monotonic() - started)
        console.print(f"\n[bold green]{say('Done in {time}.', time=took)}[/bold green]")
        if keep:
            stop = f"LLAMALEON_HOME={folder} llamaleon stop"
            console.print(say("The server goes on. Stop it with: {command}", command=stop), soft_wrap=True)
    finally:
        if running is not None and not keep:
            local.stop(running)
        if home is None and not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _show(demonstration: Demo, as_json: bool) -> None:
    """Also of one that fails at its end, because the adapter learnt too little, is the result printed."""
    from llamaleon_clients.console import print_json

    try:
        demonstration.run()
    finally:
        if as_json and demonstration.result:
            print_json(demonstration.result)
