"""Options that several commands share. Only typer here: `--help` must not wait for anything else."""

from __future__ import annotations

from typing import Annotated

import typer

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LLAMALEON_URL",
        help="Server to talk to. Default: the one of $LLAMALEON_HOME, started if none runs.",
        show_envvar=True,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
