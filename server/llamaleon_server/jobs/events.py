"""The trainer's events as the job's events: words for people, figures as `data`, and the record kept up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from llamaleon_server.jobs.auto import DEFAULT_LEARNING_RATE
from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.jobs.sidecar import Word
from llamaleon_server.registry.jobstore import JobError, JobRecord, JobStore
from llamaleon_trainer.events import read_events
from llamaleon_trainer.job import Event


def checkpoint_name(ft_name: str, step: int) -> str:
    return f"{ft_name}:ckpt-step-{step}"


class Ingester:
    """Moves events.jsonl into the database. Each line is recorded once, whoever dies in between."""

    def __init__(self, store: JobStore, job_id: str, ft_name: str) -> None:
        self._store = store
        self._job = job_id
        self._ft_name = ft_name
        self._paused = False  # nothing came after that it paused
        self.has_checkpoints = True  # perhaps of an earlier server; whoever looks at them resets it

    def ingest(self) -> Word:
        """Record what is new. Blocks.

        Raises:
            JobFailed: the trainer said that it failed.
        """
        record = self._store.get(self._job)
        path = self._store.directory(self._job) / "events.jsonl"
        try:
            events, offset = read_events(path, record.events_offset)
        except ValueError as error:
            raise JobFailed(
                "trainer_failed", f"The trainer wrote something that is no event: {error}"
            ) from error
        if events:
            with self._store.db.transaction():
                for event in events:
                    self._record(event)
                self._store.update(self._job, events_offset=offset)
            record = self._store.get(self._job)
        if record.error is not None:  # also when a server that died right after recorded it
            raise JobFailed(record.error.code, record.error.message)
        if record.trainer_done:
            return Word.DONE
        return Word.PAUSED if self._paused else Word.GOING

    def _record(self, event: Event) -> None:
        handler = _HANDLERS.get(event.type)
        if handler is not None:
            handler(self, event)

    def _say(self, event: Event, message: str, **options: Any) -> None:
        self._store.add_event(self._job, message, created=event.time, data=event.data, **options)

    def _get(self) -> JobRecord:
        return self._store.get(self._job)

    def _started(self, event: Event) -> None:
        data = event.data
        self._paused = False
        self._store.update(self._job, total_steps=data.get("steps"))
        if data.get("resumed_from_step"):
            self._say(event, f"Training resumed from step {data['resumed_from_step']}.")
            return
        self._say(
            event,
            f"Training started: {data.get('steps')} steps on {data.get('train_rows')} rows, "
            f"{data.get('valid_rows')} held out, {data.get('train_tokens')} tokens, on {data.get('device')}",
            once="started",
        )

    def _base_checked(self, event: Event) -> None:
        self._say(
            event,
            f"Base in the trainer against the served one: mean KL {event.data['mean_kl']:.2g} per token",
            once="base_checked",
        )

    def _estimate(self, event: Event) -> None:
        """Its figures under a name of their own: they are not those of a step."""
        data = event.data
        takes = f"{_bytes(data.get('memory_bytes'))} of memory, {_duration(data.get('seconds'))}"
        self._store.add_event(
            self._job,
            f"Estimated: {takes}",
            created=event.time,
            data={"estimate": data},
            once="estimate",
        )
        if isinstance(seconds := data.get("seconds"), int | float):
            self._store.update(self._job, estimated_finish=int(event.time + seconds))

    def _lr_found(self, event: Event) -> None:
        found = float(event.data["learning_rate"])
        changed = {
            "learning_rate": float(f"{found:.6g}"),
            "learning_rate_multiplier": float(f"{found / DEFAULT_LEARNING_RATE:.6g}"),
        }
        self._store.update(self._job, resolved=self._get().resolved | changed)
        self._store.add_event(
            self._job,
            f"Learning rate found: {found:.3g}",
            created=event.time,
            data={"learning_rate_found": event.data},
            once="lr_found",
        )

    def _step(self, event: Event) -> None:
        data = event.data
        record = self._get()
        step = int(data["step"])
        if step <= record.last_step:  # a resumed trainer repeats the steps since its checkpoint
            return
        eta_s = data.get("eta_s")
        self._store.update(
            self._job,
            last_step=step,
            trained_tokens=data.get("trained_tokens"),
            estimated_finish=None if eta_s is None else int(time.time() + eta_s),
        )
        message = f"Step {step}/{record.total_steps}: training loss={_figure(data.get('train_loss'))}"
        self._say(event, message, type="metrics", once=f"step-{step}")

    def _eval(self, event: Event) -> None:
        data = event.data
        total = self._get().total_steps
        message = (
            f"Step {data['step']}/{total}: validation loss={_figure(data.get('valid_loss'))}, "
            f"token accuracy={_figure(data.get('valid_accuracy'))}"
        )
        self._say(event, message, type="metrics", once=f"eval-{data['step']}")

    def _checkpoint(self, event: Event) -> None:
        data = event.data
        name = checkpoint_name(self._ft_name, int(data["step"]))
        metrics = {key: value for key, value in data.items() if isinstance(value, float) and key != "step"}
        self._store.add_checkpoint(self._job, int(data["step"]), name, metrics)
        self.has_checkpoints = True
        self._say(
            event, f"Checkpoint created at step {data['step']}: {name}", once=f"checkpoint-{data['step']}"
        )

    def _warning(self, event: Event) -> None:
        self._say(event, str(event.data.get("message", "")), level="warn")

    def _finished(self, event: Event) -> None:
        self._store.update(
            self._job,
            trainer_done=True,
            trained_tokens=event.data.get("trained_tokens"),
            estimated_finish=None,
        )
        self._say(event, f"Training finished after {event.data.get('steps')} steps", once="finished")

    def _cancelled(self, event: Event) -> None:
        self._store.update(self._job, trainer_done=True)
        self._say(event, f"The trainer stopped at step {event.data.get('step')}", once="cancelled")

    def _left_off(self, event: Event) -> None:
        self._paused = True
        self._store.update(self._job, estimated_finish=None)
        at = event.data.get("step")
        self._store.add_event(
            self._job, f"Training paused at step {at}", created=event.time, data={"paused_at_step": at}
        )

    def _failed(self, event: Event) -> None:
        error = JobError(str(event.data.get("code", "internal")), str(event.data.get("message", "")))
        self._store.update(self._job, error=error)


_HANDLERS: dict[str, Callable[[Ingester, Event], None]] = {
    "started": Ingester._started,
    "estimate": Ingester._estimate,
    "lr_found": Ingester._lr_found,
    "base_checked": Ingester._base_checked,
    "step": Ingester._step,
    "eval": Ingester._eval,
    "checkpoint": Ingester._checkpoint,
    "warning": Ingester._warning,
    "finished": Ingester._finished,
    "cancelled": Ingester._cancelled,
    "paused": Ingester._left_off,
    "failed": Ingester._failed,
}


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "?"


def _bytes(count: Any) -> str:
    if not isinstance(count, int | float):
        return "?"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(seconds: Any) -> str:
    """`95` -> `2 min`; rounded up, because it is an estimate."""
    if not isinstance(seconds, int | float):
        return "?"
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
