"""A training job seen from outside: hand it in, follow its events, and say how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llamaleon_clients.api import Client, Json
from llamaleon_clients.errors import ClientError, ServerUnreachable
from llamaleon_clients.session import existing, model_name
from llamaleon_clients.words import say

ENDED = ("succeeded", "failed", "cancelled")
POLL_S = 0.4
FIGURES = {
    "step",
    "gate",
    "evaluation",
}  # keys of the data of steps, of the proof of parity, of the evaluation


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What `llamaleon train` was asked for; `hyperparameters` by the API's names, absent ones automatic."""

    data: Path
    base: str
    name: str
    validation: Path | None = None
    seed: int | None = None
    hyperparameters: Json = field(default_factory=dict)


@dataclass
class Progress:
    """The newest figures of a job, gathered from its events. None: not known yet."""

    status: str = "queued"
    steps: int | None = None
    step: int = 0
    train_loss: float | None = None
    valid_loss: float | None = None
    tokens_per_s: float | None = None
    memory_bytes: int | None = None
    eta_s: float | None = None
    parity: Json | None = None
    evaluation: Json | None = None

    def observe(self, event: Json) -> None:
        """Take the figures of one event's `data`; keys that it does not carry keep their last value."""
        data: Json = event.get("data") or {}
        for name in ("steps", "step", "train_loss", "valid_loss", "tokens_per_s", "memory_bytes", "eta_s"):
            if data.get(name) is not None:
                setattr(self, name, data[name])
        if "gate" in data:  # the proof of the adapter; that of the base has no gate
            self.parity = data
        self.evaluation = data.get("evaluation") or self.evaluation


class Display(Protocol):
    """Where a job's progress is shown."""

    def update(self, progress: Progress) -> None: ...

    def message(self, level: str, text: str) -> None: ...


def _is_news(event: Json) -> bool:
    """Not the figures (the progress line and the report show them), and not the failure (told at the end)."""
    if event["level"] == "info":
        return not FIGURES & (event.get("data") or {}).keys()
    return bool(event["level"] != "error")


def submit(client: Client, request: TrainingRequest) -> Json:
    """Upload the rows and create the job; the server validates every row before a weight is loaded."""
    existing(request.data, say("The training file"))
    if request.validation is not None:
        existing(request.validation, say("The validation file"))
    base = model_name(client, request.base)
    client.model(base)  # an unknown base is told before anything is uploaded
    body: Json = {"model": base, "training_file": client.upload(request.data)["id"], "suffix": request.name}
    if request.validation is not None:
        body["validation_file"] = client.upload(request.validation)["id"]
    if request.seed is not None:
        body["seed"] = request.seed
    if request.hyperparameters:
        body["method"] = {
            "type": "supervised",
            "supervised": {"hyperparameters": dict(request.hyperparameters)},
        }
    return client.create_job(body)


def follow(
    client: Client, job_id: str, display: Display, *, sleep: Callable[[float], Any] = time.sleep
) -> tuple[Json, Progress]:
    """Show the job's events as they come, until it ends.

    Raises:
        ClientError: the server went away; the message says how to come back.
    """
    progress = Progress()
    last_id: str | None = None
    try:
        while True:
            job = client.job(job_id)  # before the events: once it has ended, all of them are there
            progress.status = job["status"]
            for event in client.events_since(job_id, last_id):
                last_id = event["id"]
                progress.observe(event)
                if _is_news(event):
                    display.update(progress)
                    display.message(event["level"], event["message"])
            display.update(progress)
            if job["status"] in ENDED:
                return job, progress
            sleep(POLL_S)
    except ServerUnreachable as error:
        raise ClientError(
            say(
                "{error} The job is kept; come back with `llamaleon train --attach {job}`.",
                error=error,
                job=job_id,
            )
        ) from error
