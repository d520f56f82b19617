"""The loop, on a real trained model and real rows: upload, train, convert, prove, deploy, ask."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.flow import BASE, events, gsm8k_rows, loss, start_job, wait_for, write_jsonl
from tests.server import RunningServer


def test_a_real_model_learns_from_real_rows(stories: RunningServer, tmp_path: Path) -> None:
    client = stories.openai()
    data = write_jsonl(tmp_path / "math.jsonl", gsm8k_rows(64))
    job = start_job(client, data, n_epochs=4, batch_size=8, learning_rate=5e-3)
    assert job.status in {"validating_files", "queued", "running"}
    job = wait_for(client, job.id)
    assert job.status == "succeeded", [event.message for event in events(client, job.id)]

    # The names that work at once, and what they compute on rows never trained on.
    assert job.fine_tuned_model.startswith(f"ft:{BASE}:")
    unseen = gsm8k_rows(8, split="test")
    base = sum(loss(client, BASE, row) for row in unseen) / len(unseen)
    adapted = sum(loss(client, job.fine_tuned_model, row) for row in unseen) / len(unseen)
    assert adapted < base - 0.5
    assert loss(client, f"{BASE}+math", unseen[0]) == pytest.approx(
        loss(client, job.fine_tuned_model, unseen[0]), abs=1e-3
    )

    # The proof travels with the job: parity on an F32 base is the rounding of two float32 programs.
    parity = [event.data for event in events(client, job.id) if event.data and "mean_kl" in event.data]
    assert parity
    assert all(proof["mean_kl"] <= 1e-6 for proof in parity)

    metrics = client.files.content(job.result_files[0]).text
    assert "train_loss" in metrics.splitlines()[0]
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert checkpoints
    assert loss(client, checkpoints[0].fine_tuned_model_checkpoint, unseen[0]) < base

    listed = {model.id for model in client.models.list()}
    assert {BASE, f"{BASE}+math"} <= listed


def test_bad_rows_are_named_before_a_weight_is_loaded(stories: RunningServer, tmp_path: Path) -> None:
    client = stories.openai()
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 3, "completion": "b"}\n{not json}\n')
    job = wait_for(client, start_job(client, path).id)
    assert job.status == "failed"
    assert job.error.param == "training_file"
    assert "2" in job.error.message
    assert "3" in job.error.message
    assert not stories.processes("llamaleon_trainer")
