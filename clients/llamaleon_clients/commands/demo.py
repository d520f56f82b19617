"""`llamaleon demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEMO_HELP = """
See the whole loop, offline, in a few minutes: the small model that ships with Llamaleon
is asked for the fields of a report, learns it from 400 examples, and is asked again.
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
) -> None:
    import os
    import shutil
    import signal
    import sys
    import tempfile
    import time

    from rich.console import Console

    from llamaleon_clients import local
    from llamaleon_clients.api import Client
    from llamaleon_clients.console import human_seconds
    from llamaleon_clients.demo import Demo

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that `finally` runs
    for variable in (
        "NO_PROXY",
        "no_proxy",
    ):  # a proxy of the environment cannot reach this machine's loopback
        os.environ[variable] = ",".join(filter(None, (os.environ.get(variable), local.HOST)))
    started = time.monotonic()
    console = Console(highlight=False)
    folder = home or Path(tempfile.mkdtemp(prefix="llamaleon-demo-"))
    running = None
    try:
        running, _ = local.start(folder, port=local.free_port(0))
        console.print(f"Server at {running.url}, files in {folder} ({time.monotonic() - started:.1f} s)")
        with Client(running.url) as client:
            Demo(client, console).run()
        console.print(f"\n[bold green]Done in {human_seconds(time.monotonic() - started)}.[/bold green]")
        if keep:
            console.print(
                f"The server goes on. Stop it with: LLAMALEON_HOME={folder} llamaleon stop", soft_wrap=True
            )
    finally:
        if running is not None and not keep:
            local.stop(running)
        if home is None and not keep:
            shutil.rmtree(folder, ignore_errors=True)
