"""Things die: the engine mid-stream, the trainer mid-job, the API mid-job. Nothing recorded is lost."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import openai
import pytest
from tests.integration.flow import BASE, gsm8k_rows, start_job, wait_for, wait_for_step, write_jsonl
from tests.server import RunningServer


def wait_until_gone(server: RunningServer, module: str, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while server.processes(module):
        assert time.monotonic() < deadline, f"{module} is still running"
        time.sleep(0.05)


def test_the_engine_dies_mid_stream_and_the_next_request_works(stories: RunningServer) -> None:
    client = stories.openai(max_retries=0)
    stream = client.completions.create(
        model=BASE, prompt="Once upon a time", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    [engine] = stories.processes("llamaleon_server.engine")
    engine.send_signal(signal.SIGKILL)
    with pytest.raises(openai.APIError):
        list(stream)
    again = client.completions.create(model=BASE, prompt="Once upon a time", max_tokens=5, temperature=0)
    assert again.choices[0].text


def test_the_trainer_dies_mid_job_and_the_job_ends(stories: RunningServer, tmp_path: Path) -> None:
    client = stories.openai()
    data = write_jsonl(tmp_path / "math.jsonl", gsm8k_rows(64))
    job = start_job(client, data, n_epochs=6, batch_size=4, learning_rate=2e-3)
    wait_for_step(client, job.id, 20)
    [trainer] = stories.processes("llamaleon_trainer")
    trainer.send_signal(signal.SIGKILL)
    job = wait_for(client, job.id)
    assert job.status == "succeeded"
    assert client.completions.create(model=job.fine_tuned_model, prompt="Tom has", max_tokens=3).choices


def test_the_api_dies_mid_job_and_the_job_ends(stories: RunningServer, tmp_path: Path) -> None:
    client = stories.openai()
    data = write_jsonl(tmp_path / "math.jsonl", gsm8k_rows(64))
    job = start_job(client, data, n_epochs=6, batch_size=4, learning_rate=2e-3)
    wait_for_step(client, job.id, 10)
    stories.kill()
    wait_until_gone(stories, "llamaleon_server.engine")  # an engine does not outlive its API
    stories.start()
    assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
    job = wait_for(client, job.id)
    assert job.status == "succeeded"
    steps = [
        event.data["step"]
        for event in client.fine_tuning.jobs.list_events(job.id, limit=100)
        if event.type == "metrics" and event.data and "train_loss" in event.data
    ]
    assert len(steps) == len(set(steps)), "an event was recorded twice"
    assert client.completions.create(model=job.fine_tuned_model, prompt="Tom has", max_tokens=3).choices


def test_a_paused_job_outlives_the_api_that_is_killed(stories: RunningServer, tmp_path: Path) -> None:
    client = stories.openai()
    data = write_jsonl(tmp_path / "math.jsonl", gsm8k_rows(24))
    job = start_job(client, data, n_epochs=4, batch_size=4, learning_rate=2e-3)
    wait_for_step(client, job.id, 3)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    stories.kill()
    wait_until_gone(stories, "llamaleon_trainer", timeout_s=60.0)  # it pauses although nobody watches
    stories.start()
    assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status in {"queued", "running"}
    job = wait_for(client, job.id)
    assert job.status == "succeeded", job.error
    events = client.fine_tuning.jobs.list_events(job.id, limit=100)
    steps = [one.data["step"] for one in events if one.type == "metrics" and "train_loss" in one.data]
    assert steps == sorted(set(steps), reverse=True), "every step once, newest first"


def test_stopping_the_server_leaves_no_process_behind(stories: RunningServer) -> None:
    stories.openai().completions.create(model=BASE, prompt="Once", max_tokens=1)
    assert stories.processes("llamaleon_server.engine")
    stories.stop()
    wait_until_gone(stories, "llamaleon_server.engine")
