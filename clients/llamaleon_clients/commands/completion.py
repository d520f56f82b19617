"""`llamaleon completion SHELL`: the script that makes Tab complete commands, options and names of models."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

COMPLETION_HELP = """
Print the completion script of a shell.

\b
  bash  llamaleon completion bash >> ~/.bashrc
  zsh   llamaleon completion zsh > ~/.zfunc/_llamaleon
  fish  llamaleon completion fish > ~/.config/fish/completions/llamaleon.fish
"""


ASKED = "_LLAMALEON_COMPLETE"  # the shell's script sets it, and wants words instead of a command


class Shell(StrEnum):
    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def register(app: typer.Typer) -> None:
    app.command(help=COMPLETION_HELP)(completion)


def completion(shell: Annotated[Shell, typer.Argument(help="Which shell.")]) -> None:
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # used, not exported

    script = get_completion_script(prog_name="llamaleon", complete_var=ASKED, shell=shell)
    sys.stdout.write(script + "\n")


def prepare() -> None:
    """Teach typer the shells. It does so by itself only where it offers its own two options for this."""
    from typer.completion import completion_init  # type: ignore[attr-defined]  # used, not exported

    completion_init()
