"""`llamaleon train` and `llamaleon jobs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaleon_clients.options import AsJson, Url

if TYPE_CHECKING:
    from llamaleon_clients.api import Client, Json

TRAIN_HELP = """
Train a LoRA adapter on DATA and serve it as BASE+NAME.

\b
  llamaleon train reports.jsonl --base nano --name extractor
  llamaleon train rows.csv --base ~/models/qwen.gguf --name tone --epochs 5
  llamaleon train --attach ftjob-...

DATA is .jsonl, .json or .csv; a row is OpenAI chat (messages), prompt/completion,
instruction/input/output or text. Every row is checked before training starts. Rows are held out to
compare the adapter with its base; one that does worse is not deployed. What is not given follows from
the sizes of the data and of the model.
"""


def register(app: typer.Typer) -> None:
    app.command(help=TRAIN_HELP)(train)
    app.command()(jobs)


def train(
    *,
    data: Annotated[Path | None, typer.Argument(help="File with the rows to learn from.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Model to adapt: a name, or the path of a GGUF file.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new adapter.")] = None,
    valid: Annotated[Path | None, typer.Option(help="File with the rows to hold out.")] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Part of DATA to hold out when there is no --valid. [default: 0.1]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Times through the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of one step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its highest.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha: its strength is alpha/rank.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same split and order.")] = None,
    attach: Annotated[
        str | None, typer.Option(metavar="JOB", help="Follow a job that runs, or show how it ended.")
    ] = None,
    cancel: Annotated[str | None, typer.Option(metavar="JOB", help="Cancel a job.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients.session import connect
    from llamaleon_clients.training import TrainingRequest, submit
    from llamaleon_clients.words import say

    if cancel is not None:
        with connect(url) as client:
            _say_cancelled(client.cancel_job(cancel), as_json)
        return
    if attach is not None:
        with connect(url) as client:
            _watch(client, client.job(attach), as_json)
        return
    if data is None or base is None or name is None:
        raise typer.BadParameter(say("DATA, --base and --name are needed (or --attach JOB)."))
    hyperparameters = {
        "n_epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "lora_r": rank,
        "lora_alpha": alpha,
        "held_out_fraction": held_out,
    }
    request = TrainingRequest(
        data=data,
        base=base,
        name=name,
        validation=valid,
        seed=seed,
        hyperparameters={key: value for key, value in hyperparameters.items() if value is not None},
    )
    with connect(url) as client:
        _watch(client, submit(client, request), as_json, name)


def _watch(client: Client, job: Json, as_json: bool, suffix: str | None = None) -> None:
    """Follow `job` to its end and print the outcome; Ctrl-C leaves it running."""
    from llamaleon_clients import console, report
    from llamaleon_clients.progress import progress_display
    from llamaleon_clients.training import follow
    from llamaleon_clients.words import say

    console.note(
        say("Job {job}: {base}, adapter {adapter}", job=job["id"], base=job["model"], adapter=suffix)
        if suffix
        else say("Job {job}: {base}", job=job["id"], base=job["model"])
    )
    try:
        with progress_display() as display:
            job, progress = follow(client, job["id"], display)
    except KeyboardInterrupt:
        _leave(client, job["id"], as_json)
        raise typer.Exit(130) from None
    if as_json:
        console.print_json({"job": job, "parity": progress.parity, "evaluation": progress.evaluation})
        report.require_success(job)
        return
    out = console.out()
    report.print_outcome(out, job, progress)
    report.require_success(job)
    model = report.served_name(job)
    name = job["fine_tuned_model"]
    out.print("\n" + say("Deployed as {model} ({name})", model=f"[bold]{model}[/bold]", name=name) + "\n")
    out.print(report.python_lines(client.url, model), markup=False)


def _leave(client: Client, job_id: str, as_json: bool) -> None:
    from llamaleon_clients.asking import confirmed
    from llamaleon_clients.console import note
    from llamaleon_clients.words import say

    question = "\n" + say("Cancel the job as well?")
    if sys.stdin.isatty() and confirmed(question):
        _say_cancelled(client.cancel_job(job_id), as_json)
        return
    note(
        say(
            "The job goes on. Come back with `llamaleon train --attach {job}`, end it with --cancel.",
            job=job_id,
        )
    )


def _say_cancelled(job: dict[str, Any], as_json: bool) -> None:
    from llamaleon_clients.console import out, print_json
    from llamaleon_clients.progress import status
    from llamaleon_clients.words import say

    if as_json:
        print_json(job)
        return
    out().print(say("Job {job}: {status}", job=job["id"], status=status(job["status"])), markup=False)


def jobs(as_json: AsJson = False, url: Url = None) -> None:
    """List the newest training jobs."""
    from llamaleon_clients import console, report
    from llamaleon_clients.progress import status
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        entries = client.jobs()
    if as_json:
        console.print_json(entries)
        return
    if not entries:
        console.out().print(say("No training jobs yet."))
        return
    titles = (say("JOB"), say("BASE"), say("STATUS"), say("RESULT"), say("CREATED"))
    made = console.table(*titles)
    for job in entries:
        made.add_row(
            job["id"],
            job["model"],
            status(job["status"]),
            report.served_name(job) if job.get("fine_tuned_model") else "-",
            console.ago(job.get("created_at")),
        )
    console.print_table(made)
