"""The `llamaleon` command. Heavy imports wait inside the commands: `--help` answers at once."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from llamaleon_clients.commands import chat, convert, demo, models, serve, train
from llamaleon_clients.errors import ClientError

EPILOG = "Try `llamaleon demo`: it trains an adapter and compares the answers, offline, in a few minutes."


class ErrorsAsLines(TyperGroup):
    """Expected failures become one line on standard error and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as error:
            from rich.markup import escape

            from llamaleon_clients.console import err

            err().print(f"[bold red]Error:[/bold red] {escape(str(error))}")
            raise typer.Exit(1) from error


app = typer.Typer(
    name="llamaleon",
    cls=ErrorsAsLines,
    help="Train LoRA adapters and chat with them: one GGUF model, any number of adapters, one local server.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (demo, train, chat, serve, models, convert):
    _module.register(app)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # real streams are TextIOWrapper
    app()
