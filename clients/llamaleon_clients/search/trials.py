"""One trial: a job that is not deployed, watched, and cancelled when it is worse than the others were."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamaleon_clients.api import Client, Json
from llamaleon_clients.errors import ClientError
from llamaleon_clients.training import ENDED, request_of, submit
from llamaleon_clients.words import say

if TYPE_CHECKING:
    import optuna

JOB, DEPLOYABLE, REASON = "job", "deployable", "reason"  # a trial's attributes
POLL_S = 0.5
UNDEPLOYED = ("worse_than_base", "parity_failed")  # trained and measured, and not to be served


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. `loss`: nats per token on the held-out rows; None if it was never measured."""

    state: str  # complete, pruned, failed
    loss: float | None


def run(
    client: Client,
    trial: optuna.Trial,
    settings: Mapping[str, Any],
    said: Callable[[str], None],
    *,
    sleep: Callable[[float], Any] = time.sleep,
) -> Outcome:
    """Hand the job in, and watch it. Ctrl-C leaves the job: the next search goes on with it."""
    job = submit(client, request_of({**settings, "deploy": False}))
    trial.set_user_attr(JOB, job["id"])  # before anything else: a search that is killed finds it again
    return watch(client, trial, job["id"], said, sleep=sleep)


def watch(
    client: Client,
    trial: optuna.Trial,
    job_id: str,
    said: Callable[[str], None],
    *,
    sleep: Callable[[float], Any] = time.sleep,
) -> Outcome:
    """Report every held-out loss of the job; cancel it once the study's pruner says so.

    Losses are compared by their number in the job, not by its step: a larger batch has fewer steps.
    """
    reported = trial.study.trials[trial.number].intermediate_values
    last_id: str | None = None
    losses: list[float] = []
    measured: float | None = None
    while True:
        job = client.job(job_id)  # before the events: once it has ended, all of them are there
        for event in client.events_since(job_id, last_id):
            last_id = event["id"]
            data = event.get("data") or {}
            if "step" in data and data.get("valid_loss") is not None:
                losses.append(float(data["valid_loss"]))
                if len(losses) not in reported:
                    trial.report(losses[-1], len(losses))
                said(
                    say("trial {number}: held-out loss {loss}", number=trial.number, loss=f"{losses[-1]:.4f}")
                )
            measured = _measured(data, measured)
        if job["status"] in ENDED:
            return _ended(trial, job, measured, losses)
        if losses and trial.should_prune():
            client.cancel_job(job_id)
            trial.set_user_attr(REASON, say("pruned"))
            return Outcome("pruned", losses[-1])
        sleep(POLL_S)


def _measured(data: Json, known: float | None) -> float | None:
    """The loss of the served adapter, which the evaluation at the end of a job gives."""
    adapter = (data.get("evaluation") or {}).get("adapter") or {}
    loss = adapter.get("loss")
    if isinstance(loss, dict):  # with its interval
        loss = loss.get("value")
    return known if loss is None else float(loss)


def _ended(trial: optuna.Trial, job: Json, measured: float | None, losses: list[float]) -> Outcome:
    loss = measured if measured is not None else (losses[-1] if losses else None)
    error = job.get("error") or {}
    if job["status"] != "succeeded":
        trial.set_user_attr(REASON, str(error.get("message") or job["status"]))
        if error.get("code") not in UNDEPLOYED:
            return Outcome("failed", loss)
    trial.set_user_attr(DEPLOYABLE, job["status"] == "succeeded")
    return Outcome("failed" if loss is None else "complete", loss)


def fine_tuned_model(client: Client, job_id: str) -> str | None:
    """What the job made, if anything is left of it."""
    try:
        name = client.job(job_id).get("fine_tuned_model")
    except ClientError:
        return None
    return None if name is None else str(name)
