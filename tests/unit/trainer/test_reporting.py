"""TensorBoard and W&B: what they are told, and what happens without them."""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.trainer.jobs import events, write_job

from llamaleon_trainer.errors import NotInstalled
from llamaleon_trainer.events import EventWriter
from llamaleon_trainer.inputs import read_inputs
from llamaleon_trainer.job import Event, JobSpec, Wandb
from llamaleon_trainer.process import why_failed
from llamaleon_trainer.recipe import run
from llamaleon_trainer.reporting import curves, open_reporters, reporting

STEP = {"step": 3, "train_loss": 1.5, "learning_rate": 0.1, "epoch": 1}


def records(directory: Path) -> Iterator[Any]:
    """What TensorBoard's files hold, in order of writing.

    Source: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/io/record_writer.h
    """
    from tensorboardX.proto.event_pb2 import Event as Recorded

    for path in sorted(directory.glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Recorded.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


def spec(**changes: object) -> JobSpec:
    return JobSpec(job_id="job", base="base", **changes)  # type: ignore[arg-type]  # any of its fields


def test_a_job_draws_its_curves_in_tensorboard(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", epochs=1, batch_size=4, report_to=["tensorboard"])
    writer = EventWriter(job / "events.jsonl")
    inputs = read_inputs(job)
    with reporting(inputs.spec, job, writer):
        run(job, inputs, writer, lambda: None)
    writer.close()
    drawn = [
        (one.tag, recorded.step, one.simple_value)
        for recorded in records(job / "tensorboard")
        for one in recorded.summary.value
    ]
    losses = [(step, value) for tag, step, value in drawn if tag == "train/loss"]
    assert losses == [
        (event.data["step"], pytest.approx(event.data["train_loss"])) for event in events(job, "step")
    ]
    tags = {tag for tag, _, _ in drawn}
    assert {"train/learning_rate", "train/grad_norm", "valid/loss", "valid/accuracy"} <= tags


def test_the_curves_of_a_resumed_job_go_on(tmp_path: Path) -> None:
    """TensorBoard is told to forget what came after the checkpoint that the job went back to."""
    from tensorboardX.proto.event_pb2 import SessionLog

    events = EventWriter(tmp_path / "events.jsonl")
    for resumed in (None, 4):
        with reporting(spec(report_to=["tensorboard"]), tmp_path, events):
            events.write("started", resumed_from_step=resumed)
            events.write("step", **STEP)
    events.close()
    starts = [
        recorded.step
        for recorded in records(tmp_path / "tensorboard")
        if recorded.session_log.status == SessionLog.START
    ]
    assert starts == [5]


def test_a_job_goes_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    asked = Wandb(project="colours", name="first", tags=["night"])
    events = EventWriter(tmp_path / "events.jsonl")
    with reporting(spec(report_to=["wandb"], wandb=asked), tmp_path, events):
        events.write("started", resumed_from_step=None)
        events.write("step", **STEP)
        events.write("finished", steps=3, seconds=1.0)
    events.close()
    (written,) = (tmp_path / "wandb").rglob("run-job.wandb")
    deadline = time.monotonic() + 60  # wandb's own process writes it, when it does
    while b"train/loss" not in (content := written.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for word in (b"colours", b"night", b"train/loss", b"llamaleon"):
        assert word in content


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_fails_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(NotInstalled) as caught:
        open_reporters(spec(report_to=[name]), tmp_path)
    code, message = why_failed(caught.value)
    assert code == "not_installed"
    assert f"pip install 'llamaleon[{name}]'" in message


def test_trouble_with_a_reporter_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = []

    class FullDisk:
        def __call__(self, event: Event) -> None:
            heard.append(event.type)
            raise OSError("no space left")

        def close(self) -> None:
            heard.append("closed")

    def opened(*_: object) -> list[FullDisk]:
        return [FullDisk()]

    monkeypatch.setattr("llamaleon_trainer.reporting.open_reporters", opened)
    writer = EventWriter(tmp_path / "events.jsonl")
    with reporting(spec(), tmp_path, writer):
        writer.write("step", **STEP)
        writer.write("step", **STEP)
    writer.close()
    assert heard == ["step"], "left out after the first trouble"
    assert "FullDisk is left out" in capsys.readouterr().err
    assert len(events(tmp_path, "step")) == 2


def test_failure_is_told_and_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    class Listener:
        def __call__(self, event: Event) -> None:
            heard.append(event.type)

        def close(self) -> None:
            heard.append("closed")

    monkeypatch.setattr("llamaleon_trainer.reporting.open_reporters", lambda *_: [Listener()])
    writer = EventWriter(tmp_path / "events.jsonl")
    with pytest.raises(ZeroDivisionError), reporting(spec(), tmp_path, writer):
        raise ZeroDivisionError
    writer.close()
    assert heard == ["failed", "closed"]
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_curves_have_groups_and_no_step() -> None:
    drawn = curves(Event("eval", 0.0, {"step": 3, "valid_loss": 2.0, "reward_margin": 0.5}))
    assert drawn == {"valid/loss": 2.0, "valid/reward_margin": 0.5}
    assert curves(Event("checkpoint", 0.0, {"step": 3, "train_loss": 1.0})) == {}


def test_nothing_is_opened_that_was_not_asked_for(tmp_path: Path) -> None:
    assert open_reporters(spec(), tmp_path) == []
