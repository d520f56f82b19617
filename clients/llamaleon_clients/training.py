"""A training job seen from outside: hand it in, follow its events, and say how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llamaleon_clients.api import Client, Json
from llamaleon_clients.datasets import hand_in, is_uploaded, require
from llamaleon_clients.errors import BadInput, ClientError, ServerRefused, ServerUnreachable
from llamaleon_clients.session import model_name
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
    """What a job is asked for; `hyperparameters` by the API's names, absent ones automatic.

    `data` and `validation`: the path of a file, `hf:OWNER/NAME:SPLIT`, or the id of an uploaded file.
    """

    data: str | Path
    base: str  # a name, the path of a GGUF file, or an adapter to go on from
    name: str | None = None
    validation: str | Path | None = None
    method: str = "supervised"
    seed: int | None = None
    hyperparameters: Json = field(default_factory=dict)
    integrations: list[Json] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    text_template: str | None = None
    deploy: bool = True


OF_THE_REQUEST = ("data", "base", "name", "method", "seed", "metadata", "text_template", "deploy")


def request_of(settings: Mapping[str, Any]) -> TrainingRequest:
    """A request from flat settings: of command-line flags, of a file, of a search.

    `data`, `base`, `name`, `valid`, `method`, `seed`, `metadata`, `text_template`, `deploy`; `tensorboard`
    (true), `wandb` (a project, or OpenAI's object); everything else is a hyperparameter, which the server
    refuses if it knows none of that name. What is None counts as absent.

    Raises:
        BadInput: `data` or `base` is missing, or `wandb` is neither.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    missing = [key for key in ("data", "base") if not given.get(key)]
    if missing:
        raise BadInput(say("A training job needs `{key}`.", key=missing[0]))
    fields = {key: given.pop(key) for key in OF_THE_REQUEST if key in given}
    valid = given.pop("valid", None)
    integrations: list[Json] = [{"type": "tensorboard"}] if given.pop("tensorboard", False) else []
    wandb = given.pop("wandb", None)
    if isinstance(wandb, str):
        wandb = {"project": wandb}
    if wandb is not None and not isinstance(wandb, dict):
        raise BadInput(say("`wandb` is the name of a project, or an object with one."))
    if wandb:
        integrations.append({"type": "wandb", "wandb": wandb})
    return TrainingRequest(**fields, validation=valid, integrations=integrations, hyperparameters=given)


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
    learning_rate: float | None = None  # that was looked for and found
    estimate: Json | None = None
    parity: Json | None = None
    evaluation: Json | None = None

    def observe(self, event: Json) -> None:
        """Take the figures of one event's `data`; keys that it does not carry keep their last value."""
        data: Json = event.get("data") or {}
        for name in ("steps", "step", "train_loss", "valid_loss", "tokens_per_s", "memory_bytes", "eta_s"):
            if data.get(name) is not None:
                setattr(self, name, data[name])
        self.learning_rate = (data.get("learning_rate_found") or {}).get("learning_rate", self.learning_rate)
        self.estimate = data.get("estimate") or self.estimate
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
    require(request.data, say("The training file"))
    if request.validation is not None:
        require(request.validation, say("The validation file"))
    base = model_name(client, request.base)
    client.model(base)  # an unknown base is told before anything is uploaded
    given = [data for data in (request.data, request.validation) if data]
    files = [str(hand_in(client, data)["id"]) for data in given]
    body: Json = {
        "model": base,
        "training_file": files[0],
        "validation_file": files[1] if request.validation else None,
        "suffix": request.name,
        "seed": request.seed,
        "integrations": request.integrations or None,
        "metadata": request.metadata or None,
        "text_template": request.text_template,
        "deploy": None if request.deploy else False,
    }
    if request.hyperparameters or request.method != "supervised":
        settings = {"hyperparameters": dict(request.hyperparameters)} if request.hyperparameters else {}
        body["method"] = {"type": request.method, request.method: settings}
    try:
        return client.create_job({key: value for key, value in body.items() if value is not None})
    except ServerRefused:
        for data, file in zip(given, files, strict=True):
            if not is_uploaded(data):  # nobody would look for it again
                with suppress(ClientError):
                    client.remove_file(file)
        raise


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
