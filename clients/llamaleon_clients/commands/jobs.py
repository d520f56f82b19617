"""`llamaleon jobs`: what is training, waits or has ended, and what is to become of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaleon_clients.commands.watching import say_status, watch
from llamaleon_clients.options import AsJson, Url

if TYPE_CHECKING:
    from llamaleon_clients.api import Client, Json

JOBS_HELP = """
Training jobs: list, follow, pause, resume, cancel.

\b
  llamaleon jobs
  llamaleon jobs pause ftjob-...
  llamaleon jobs resume ftjob-...
  llamaleon jobs logs ftjob-... -f

JOB may be shortened to any end of its id that only one of the newest jobs has; left out, it is the newest.
"""
FOLLOW_S = 1.0
LOOKED_AT = 100  # of the newest jobs, when an id is shortened

Name = Annotated[str | None, typer.Argument(metavar="JOB", help="Id of the job, or its end.")]


def register(app: typer.Typer) -> None:
    jobs = typer.Typer(help=JOBS_HELP, invoke_without_command=True, rich_markup_mode=None)
    jobs.callback()(index)
    jobs.command(name="list")(listed)
    for command in (show, logs, attach, pause, resume, cancel):
        jobs.command()(command)
    app.add_typer(jobs, name="jobs")


def index(context: typer.Context, as_json: AsJson = False, url: Url = None) -> None:
    if context.invoked_subcommand is None:
        listed(as_json, url)
    else:  # what was said before the command holds for it
        context.default_map = {context.invoked_subcommand: {"as_json": as_json, "url": url}}


def listed(as_json: AsJson = False, url: Url = None) -> None:
    """The newest training jobs."""
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


def show(job: Name = None, as_json: AsJson = False, url: Url = None) -> None:
    """What a job was asked for, and how it stands."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect

    with connect(url) as client:
        found = find_job(client, job)
    if as_json:
        console.print_json(found)
        return
    for key, value in found.items():
        if value not in (None, [], {}):
            console.out().print(f"{key:18} {_shown(value)}", markup=False, soft_wrap=True)


def logs(
    job: Name = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until the job ends.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Everything that happened to a job."""
    import time

    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.training import ENDED

    with connect(url) as client:
        found = find_job(client, job)
        last: str | None = None
        events = client.events_since(found["id"], last)
        if as_json:
            console.print_json(events)
            return
        while True:
            for event in events:
                console.out().print(_line(event), markup=False, soft_wrap=True)
            if not follow or found["status"] in ENDED:
                return
            last = events[-1]["id"] if events else last
            time.sleep(FOLLOW_S)
            found = client.job(found["id"])  # before the events: once it has ended, all of them are there
            events = client.events_since(found["id"], last)


def attach(job: Name = None, as_json: AsJson = False, url: Url = None) -> None:
    """Follow a job that runs, or show how it ended."""
    from llamaleon_clients.session import connect

    with connect(url) as client:
        watch(client, find_job(client, job), as_json)


def pause(job: Name = None, as_json: AsJson = False, url: Url = None) -> None:
    """Stop a job at a checkpoint, to go on another time."""
    from llamaleon_clients.session import connect

    with connect(url) as client:
        say_status(client.pause_job(find_job(client, job)["id"]), as_json)


def resume(job: Name = None, as_json: AsJson = False, url: Url = None) -> None:
    """Let a paused job go on where it stopped."""
    from llamaleon_clients.session import connect

    with connect(url) as client:
        say_status(client.resume_job(find_job(client, job)["id"]), as_json)


def cancel(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, or its end.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """End a job; its checkpoints stay."""
    from llamaleon_clients.session import connect

    with connect(url) as client:
        say_status(client.cancel_job(find_job(client, job)["id"]), as_json)


def find_job(client: Client, name: str | None) -> Json:
    """Raises: BadInput where no job, or more than one, is meant; ServerRefused for an unknown id."""
    from llamaleon_clients.errors import BadInput
    from llamaleon_clients.words import say

    if name is not None and name.startswith("ftjob-"):
        return client.job(name)
    newest = client.jobs(LOOKED_AT)
    found = newest[:1] if name is None else [job for job in newest if job["id"].endswith(name)]
    if not found:
        raise BadInput(say("No training jobs yet.") if name is None else say("No job {job}.", job=name))
    if len(found) > 1:
        jobs = ", ".join(job["id"] for job in found)
        raise BadInput(say("{job} is the end of several: {jobs}.", job=name, jobs=jobs))
    return found[0]


def _line(event: Json) -> str:
    from datetime import datetime

    from llamaleon_clients.words import say

    when = datetime.fromtimestamp(event["created_at"]).strftime("%Y-%m-%d %H:%M:%S")
    prefix = {"warn": say("Warning") + ": ", "error": say("Error") + ": "}.get(event["level"], "")
    return f"{when}  {prefix}{event['message']}"


def _shown(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
