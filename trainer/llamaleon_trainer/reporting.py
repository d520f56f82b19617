"""TensorBoard and Weights & Biases: they listen to the events, and are opened before anything is trained."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from .errors import BadJob, NotInstalled
from .events import EventWriter
from .job import Event, JobSpec, Wandb

TENSORBOARD_DIR = "tensorboard"
WANDB_DIR = "wandb"
CURVES = {"step": "train", "eval": "valid"}  # events whose numbers are plotted, and the group they go to


class Reporter(Protocol):
    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


def open_reporters(spec: JobSpec, job_dir: Path) -> list[Reporter]:
    """What `report_to` names.

    Raises:
        NotInstalled: a package is missing; the message says how to install it.
        BadJob: W&B refuses, for example without an account.
    """
    known: dict[str, Callable[[JobSpec, Path], Reporter]] = {
        "tensorboard": TensorBoardReporter,
        "wandb": WandbReporter,
    }
    return [known[name](spec, job_dir) for name in dict.fromkeys(spec.report_to)]


def curves(event: Event) -> dict[str, float]:
    """The numbers of a step or an evaluation by their curve: `train/loss`, `valid/accuracy`, ..."""
    group = CURVES.get(event.type)
    if group is None:
        return {}
    return {
        f"{group}/{name.removeprefix(f'{group}_')}": float(value)
        for name, value in event.data.items()
        if isinstance(value, int | float) and name != "step"
    }


class TensorBoardReporter:
    """Files under the job's `tensorboard/`: `tensorboard --logdir JOB_DIR`. Through tensorboardX."""

    def __init__(self, spec: JobSpec, job_dir: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise NotInstalled.of("tensorboard", "TensorBoard", error) from error
        self._open: Callable[[int | None], Any] = lambda purge: SummaryWriter(
            str(job_dir / TENSORBOARD_DIR), purge_step=purge
        )
        self._settings = msgspec.json.format(msgspec.json.encode(spec), indent=1).decode()
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        if event.type == "started":
            resumed = event.data.get("resumed_from_step")
            # What a killed trainer wrote behind its newest checkpoint comes again.
            self._writer = self._open(None if resumed is None else resumed + 1)
            if resumed is None:
                self._writer.add_text("job", f"```\n{self._settings}\n```")
        elif self._writer is not None:
            for name, value in curves(event).items():
                self._writer.add_scalar(name, value, event.data["step"], walltime=event.time)
            if event.type in ("eval", "checkpoint"):
                self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbReporter:
    """One run a job, which a resumed job goes on with. `WANDB_MODE=offline` keeps it in the job directory."""

    def __init__(self, spec: JobSpec, job_dir: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise NotInstalled.of("wandb", "Weights & Biases", error) from error
        asked = spec.wandb or Wandb(project="llamaleon")
        directory = job_dir / WANDB_DIR
        directory.mkdir(exist_ok=True)
        try:
            self._run = wandb.init(
                project=asked.project,
                name=asked.name or spec.job_id,
                entity=asked.entity,
                tags=[*asked.tags, "llamaleon"],
                id=spec.job_id,
                resume="allow",
                dir=str(directory),
                config=msgspec.to_builtins(spec),
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.Error as error:
            raise BadJob(
                f"`report_to` wandb: {error}. Log in with `wandb login`, or set WANDB_API_KEY or "
                "WANDB_MODE=offline where the server runs, or leave wandb out."
            ) from error
        # Not W&B's own step: that one never goes back, as a resumed job does.
        self._run.define_metric("step")
        for group in CURVES.values():
            self._run.define_metric(f"{group}/*", step_metric="step")
        self._failed = False

    def __call__(self, event: Event) -> None:
        if found := curves(event):
            self._run.log({"step": event.data["step"], **found})
        elif event.type == "finished":
            self._run.summary.update(event.data)
        elif event.type == "failed":
            self._failed = True

    def close(self) -> None:
        self._run.finish(exit_code=int(self._failed))


class Guarded:
    """A reporter whose own trouble does not end the training: it is told once and then left out."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter: Reporter | None = reporter
        self._name = type(reporter).__name__.removesuffix("Reporter")

    def __call__(self, event: Event) -> None:
        self._try(lambda reporter: reporter(event))

    def close(self) -> None:
        self._try(lambda reporter: reporter.close())

    def _try(self, act: Callable[[Reporter], None]) -> None:
        if self._reporter is None:
            return
        try:
            act(self._reporter)
        except Exception as error:  # a network, a full disk, another package's mistake
            print(f"{self._name} is left out from here on: {error!r}", file=sys.stderr, flush=True)
            self._reporter = None


@contextmanager
def reporting(spec: JobSpec, job_dir: Path, events: EventWriter) -> Iterator[None]:
    """Inside, the reporters that the job asks for hear its events.

    Raises:
        NotInstalled, BadJob: see `open_reporters`.
    """
    listeners = [Guarded(reporter) for reporter in open_reporters(spec, job_dir)]
    events.listeners += listeners
    try:
        yield
    except Exception:
        for listener in listeners:
            listener(Event("failed", time.time()))
        raise
    finally:
        for listener in listeners:
            events.listeners.remove(listener)
            listener.close()
