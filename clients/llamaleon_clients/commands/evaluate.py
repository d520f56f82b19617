"""`eval` and `report`: how good a model is on rows, and the page about a training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaleon_clients.options import AsJson, Url

if TYPE_CHECKING:
    from llamaleon_clients.api import Json

EVAL_HELP = """
Measure a model on the rows of DATA.

\b
  llamaleon eval nano+extractor held_out.jsonl
  llamaleon eval nano+extractor held_out.jsonl --against nano --few-shot 4
  llamaleon eval nano data.csv --metrics accuracy,macro_f1 --json

MODEL is a base, an adapter or a blend. DATA has any shape that `llamaleon train` takes. Which figures there
are follows from the reference answers: labels, JSON or text. Intervals are of 95%.
"""
REPORT_HELP = """
Save the report of a training as a page of HTML.

Curves, figures with intervals, answers side by side, where it got worse, advice. The page needs no network.
"""


def register(app: typer.Typer) -> None:
    app.command("eval", help=EVAL_HELP)(evaluate)
    app.command(help=REPORT_HELP)(report)


def evaluate(
    model: Annotated[str, typer.Argument(help="Model to measure.")],
    data: Annotated[str, typer.Argument(help="Rows with the right answers.")],
    *,
    against: Annotated[str | None, typer.Option(help="Another model on the same rows.")] = None,
    few_shot: Annotated[
        int, typer.Option(min=0, max=32, help="Measure once more with so many examples in the prompt.")
    ] = 0,
    examples: Annotated[
        str | None,
        typer.Option(
            help="File with the examples. [default: what the adapter was trained on]", show_default=False
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Only these, separated by commas. [default: all that fit]"),
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows whose loss is taken.")] = 200,
    answers: Annotated[int, typer.Option(min=0, help="Rows that are answered.")] = 50,
    text_template: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Makes a text of each row: 'Q: {question}\\nA: {answer}'."),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.datasets import hand_in, is_uploaded, require
    from llamaleon_clients.session import connect, model_name
    from llamaleon_clients.words import say

    given = [(data, say("The file"))] + ([(examples, say("The file"))] if examples else [])
    for path, what in given:
        require(path, what)
    with connect(url) as client:
        handed: list[str] = []
        try:
            body: dict[str, Any] = {
                "model": model_name(client, model),
                "loss_rows": rows,
                "generated_rows": answers,
            }
            if against is not None:
                body["against"] = model_name(client, against)
            handed += [str(hand_in(client, path, what)["id"]) for path, what in given]
            body |= {"file": handed[0], "few_shot": few_shot, "answers": as_json}
            if examples is not None:
                body["examples_file"] = handed[1]
            if metrics is not None:
                body["metrics"] = [name.strip() for name in metrics.split(",") if name.strip()]
            if text_template is not None:
                body["text_template"] = text_template.replace("\\n", "\n")
            result = _followed(client.evaluate(body), quiet=as_json)
        finally:
            for (path, _), file_id in zip(given, handed, strict=False):
                if not is_uploaded(path):
                    client.remove_file(file_id)
    if as_json:
        console.print_json(result)
        return
    _print(result)


def report(
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB", help="Id of the job, or its end. [default: the newest]", show_default=False
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where to save it. [default: report-JOB.html here]", show_default=False
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser as well.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    import webbrowser

    from llamaleon_clients import console
    from llamaleon_clients.commands.jobs import find_job
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import language, say

    with connect(url) as client:
        found = find_job(client, job)
        page = client.job_report(found["id"], language())
    path = output or Path(f"report-{found['id']}.html")
    path.write_text(page, "utf-8")
    if as_json:
        console.print_json({"job": found["id"], "path": str(path.resolve())})
    else:
        console.out().print(say("Saved {path}", path=path), markup=False)
    if show:
        webbrowser.open(path.resolve().as_uri())


def _followed(events: Any, *, quiet: bool) -> Json:
    """The result, with the progress on standard error while it is waited for."""
    from contextlib import nullcontext

    from llamaleon_clients import console
    from llamaleon_clients.errors import ClientError
    from llamaleon_clients.words import say

    with nullcontext() if quiet else console.err().status("") as status:
        for event in events:
            if event["type"] == "result":
                result: Json = event["result"]
                return result
            if status is not None:
                told = say("{done} of {total} answers and losses", done=event["done"], total=event["total"])
                status.update(told)
    raise ClientError(say("the server stopped in the middle of the evaluation."))


def _print(result: Json) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.figures import asked_table
    from llamaleon_clients.words import say

    console.print_table(asked_table(result))
    for overlap in result["trained_on"]:
        told = say(
            "{adapter} was trained on {rows} of these rows (line {line} ...): the figures flatter.",
            adapter=overlap["adapter"],
            rows=overlap["rows"],
            line=overlap["lines"][0],
        )
        console.err().print(told, style="bold yellow", markup=False)
    if result["fields"]:
        made = console.table(say("FIELD"), say("PRECISION") + ">", say("RECALL") + ">", "F1>")
        for field in result["fields"]:
            of = field["model"]
            made.add_row(field["field"], *(f"{of[name]:.1%}" for name in ("precision", "recall", "f1")))
        console.out().print()
        console.print_table(made)
