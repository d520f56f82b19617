"""`llamaleon convert`: becomes the converter, which needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamaleon_clients.commands.serve import replace_process
from llamaleon_clients.options import AsJson

CONVERT_HELP = """
Turn a PEFT directory into a GGUF LoRA file, without a server.

\b
  llamaleon convert ./my-peft --base ./qwen.gguf -o my-adapter.gguf

What GGUF cannot express is refused with the reason.
"""


def register(app: typer.Typer) -> None:
    app.command(help=CONVERT_HELP)(convert)


def convert(
    peft_dir: Annotated[Path, typer.Argument(help="Directory with adapter_config.json.")],
    base: Annotated[Path, typer.Option(help="GGUF file of the base model.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. [default: adapter.gguf in PEFT_DIR]")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Multiply the effect of the adapter.")] = None,
    as_json: AsJson = False,
) -> None:
    from llamaleon_clients.session import existing
    from llamaleon_clients.words import say

    existing(peft_dir, say("The adapter directory"))
    existing(base, say("The base model"))
    arguments = [str(peft_dir), "--base", str(base)]
    if output is not None:
        arguments += ["-o", str(output)]
    if scale is not None:
        arguments += ["--scale", str(scale)]
    replace_process("llamaleon_convert", [*arguments, "--json"] if as_json else arguments)
