"""`llamaleon data`: rows looked at before anything is trained on them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from llamaleon_clients.options import AsJson, Url

DATA_HELP = """
Look at data before training on it.

\b
  llamaleon data check reports.jsonl
  llamaleon data check reports.jsonl --base nano --valid held_out.jsonl
  llamaleon data check hf:openai/gsm8k --text-template '{question}\\n{answer}'

With --base, lengths are in that model's tokens and rows are shown as it will read them.
"""
CHECK_HELP = """
Count, measure and compare the rows of FILE; name what is wrong.

FILE is .jsonl, .json, .csv or .parquet, hf:OWNER/NAME:SPLIT, or the id of a file of the server. Ends with
status 1 if a job would refuse the rows.
"""


class Method(StrEnum):
    supervised = "supervised"
    dpo = "dpo"


def register(app: typer.Typer) -> None:
    data = typer.Typer(help=DATA_HELP, no_args_is_help=True, rich_markup_mode=None)
    data.callback()(_group)
    data.command(help=CHECK_HELP)(check)
    app.add_typer(data, name="data")


def _group() -> None:
    """So that `check` is a command of its own, though it is the only one."""


def check(
    file: Annotated[str, typer.Argument(help="Rows to look at.")],
    *,
    base: Annotated[str | None, typer.Option(help="Model that would learn them.")] = None,
    valid: Annotated[str | None, typer.Option(help="File with the rows to hold out.")] = None,
    text_template: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Makes a text of each row: 'Q: {question}\\nA: {answer}'."),
    ] = None,
    method: Annotated[Method | None, typer.Option(help="Of the job that is planned.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest row. [default: 2048, or the model's context]")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, max=20, help="Rows to show.")] = 3,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console, dataset_report
    from llamaleon_clients.datasets import hand_in, is_uploaded, require
    from llamaleon_clients.session import connect, model_name
    from llamaleon_clients.words import say

    given = [(file, say("The file"))] + ([(valid, say("The validation file"))] if valid else [])
    for data, what in given:
        require(data, what)
    with connect(url) as client:
        model = None if base is None else model_name(client, base)
        handed: list[str] = []
        try:
            for data, what in given:
                handed.append(str(hand_in(client, data, what)["id"]))
            body: dict[str, Any] = {
                "training_file": handed[0],
                "validation_file": handed[1] if valid else None,
                "model": model,
                "method": None if method is None else str(method),
                "text_template": None if text_template is None else text_template.replace("\\n", "\n"),
                "hyperparameters": None if max_tokens is None else {"max_sequence_tokens": max_tokens},
                "shown": rows,
            }
            found = client.check_dataset({key: value for key, value in body.items() if value is not None})
        finally:
            for (data, _), file_id in zip(given, handed, strict=False):
                if not is_uploaded(data):
                    client.remove_file(file_id)
    if as_json:
        console.print_json(found)
    else:
        dataset_report.print_check(found, str(method or ""))
    if not found["ok"]:
        raise typer.Exit(1)
