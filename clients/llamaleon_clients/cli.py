"""The `llamaleon` command. Heavy imports wait inside the commands: `--help` answers at once."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llamaleon_clients.commands import (
    chat,
    completion,
    convert,
    demo,
    hub,
    keys,
    logs,
    made,
    models,
    serve,
    train,
)
from llamaleon_clients.errors import ClientError
from llamaleon_clients.translated import translate

EPILOG = "Try `llamaleon demo`: it trains an adapter and compares the answers, offline, in a few minutes."


class ErrorsAsLines(TyperGroup):
    """Expected failures become one line on standard error and exit code 1."""

    def main(self, *arguments: Any, **more: Any) -> Any:
        translate(self)
        return super().main(*arguments, **more)

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


@app.callback()
def _options(
    api_key: Annotated[
        str | None,
        typer.Option(envvar="LLAMALEON_API_KEY", help="Key of the server.", show_envvar=True),
    ] = None,
) -> None:
    if api_key is not None:
        os.environ["LLAMALEON_API_KEY"] = api_key  # where `llamaleon_clients.api` and a server look for it


for _module in (demo, train, chat, serve, models, hub, made, convert, keys, logs, completion):
    _module.register(app)


def main() -> None:
    if completion.ASKED in os.environ:
        completion.prepare()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # real streams are TextIOWrapper
    app()
