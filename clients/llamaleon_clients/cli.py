"""The `llamaleon` command. Heavy imports wait inside the commands: `--help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llamaleon_clients.commands import (
    adapters,
    chat,
    completion,
    convert,
    data,
    demo,
    evaluate,
    finetune,
    hub,
    jobs,
    keys,
    logs,
    made,
    models,
    push,
    recipe,
    serve,
    stored,
    train,
    tune,
    versions,
)
from llamaleon_clients.errors import ClientError, FileTrouble
from llamaleon_clients.translated import capitals, translate
from llamaleon_clients.words import language, say

EPILOG = "Try `llamaleon demo`: it trains an adapter and compares the answers, offline, in a few minutes."


# click's UsageError, which typer does not export: a wrong option, a missing argument, an unknown command.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


class ErrorsAsLines(TyperGroup):
    """Expected failures become one line on standard error and exit code 1; JSON where `--json` was asked for.

    A wrong command line is click's own text, or the same JSON, and exit code 2.
    """

    _as_json = False

    def main(self, args: Sequence[str] | None = None, *arguments: Any, **more: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        # Looked for before anything is parsed: what cannot be parsed is an error to tell as well.
        self._as_json = "--json" in (given[: given.index("--")] if "--" in given else given)
        capitals(self)
        translate(self)
        return super().main(args, *arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as error:
            self._tell(error)
            raise typer.Exit(1) from error
        except OSError as error:
            if error.filename is None:  # a closed pipe is typer's; others are ours, and a trace helps
                raise
            self._tell(FileTrouble(error))
            raise typer.Exit(1) from error
        except USAGE_ERROR as error:
            if self._as_json or language() != "en":
                self._tell_usage(error)
                raise typer.Exit(2) from error
            raise

    def _tell_usage(self, error: Any) -> None:
        """A wrong command line, as JSON or in Spanish; click has the words for it in English alone."""
        from llamaleon_clients.console import print_error_json

        if error.ctx is not None and error.format_message() == error.ctx.get_help():
            typer.echo(error.format_message(), err=True)  # nothing was asked: click shows the help
            return
        message = str(error.format_message())
        if language() == "es":
            from llamaleon_clients.spanish.usage import mistake

            message = mistake(message)
        if self._as_json:
            print_error_json({"error": {"message": message, "code": "usage"}})
            return
        if error.ctx is not None:
            typer.echo(error.ctx.get_usage(), err=True)
            hint = say("`{command} -h` shows how it is used.", command=error.ctx.command_path)
            typer.echo(f"{hint}\n", err=True)
        typer.echo(f"{say('Error')}: {message}", err=True)

    def _tell(self, error: ClientError) -> None:
        from llamaleon_clients.console import err, print_error_json

        if self._as_json:
            print_error_json(error.body())
            return
        from rich.markup import escape

        err().print(f"[bold red]{say('Error')}:[/bold red] {escape(str(error))}")


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


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"llamaleon {version('llamaleon')}")
        raise typer.Exit


@app.callback()
def _options(
    api_key: Annotated[
        str | None,
        typer.Option(envvar="LLAMALEON_API_KEY", help="Key of the server.", show_envvar=True),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if api_key is not None:
        os.environ["LLAMALEON_API_KEY"] = api_key  # where `llamaleon_clients.api` and a server look for it


for _module in (
    demo,
    train,
    data,
    evaluate,
    recipe,
    jobs,
    finetune,
    tune,
    versions,
    chat,
    serve,
    models,
    hub,
    push,
    made,
    convert,
    adapters,
    stored,
    keys,
    logs,
    completion,
):
    _module.register(app)


def main() -> None:
    if completion.ASKED in os.environ:
        completion.prepare()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # a closed one is None
        stream.reconfigure(errors="replace")
    app()
