"""A job followed to its end at the terminal: what `train`, `finetune` and `jobs attach` share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from llamaleon_clients.api import Client, Json


def watch(client: Client, job: Json, as_json: bool, suffix: str | None = None) -> None:
    """Follow `job` to its end and print the outcome; Ctrl-C leaves it running."""
    from rich.markup import escape

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
    if not job.get("deploy", True):
        out.print("\n" + say("Not deployed, as asked: it answers as {name}", name=name), markup=False)
        return
    shown = f"[bold]{escape(model)}[/bold]"
    out.print("\n" + say("Deployed as {model} ({name})", model=shown, name=escape(name)) + "\n")
    out.print(report.python_lines(client.url, model), markup=False)


def _leave(client: Client, job_id: str, as_json: bool) -> None:
    from llamaleon_clients.asking import confirmed
    from llamaleon_clients.console import note
    from llamaleon_clients.words import say

    question = "\n" + say("Cancel the job as well?")
    if sys.stdin.isatty() and confirmed(question):
        say_status(client.cancel_job(job_id), as_json)
        return
    note(
        say(
            "The job goes on. Come back with `llamaleon train --attach {job}`, end it with --cancel.",
            job=job_id,
        )
    )


def say_status(job: dict[str, Any], as_json: bool) -> None:
    from llamaleon_clients.console import out, print_json
    from llamaleon_clients.progress import status
    from llamaleon_clients.words import say

    if as_json:
        print_json(job)
        return
    out().print(say("Job {job}: {status}", job=job["id"], status=status(job["status"])), markup=False)
