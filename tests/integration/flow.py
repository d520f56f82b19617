"""The fine-tuning flow as a client's script has it, in the words of the `openai` package."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.data import shared

BASE = "stories260K-f32"


def gsm8k_rows(count: int, *, split: str = "train", most_characters: int = 300) -> list[dict[str, str]]:
    """Short real rows as prompt and completion."""
    rows = []
    with shared(f"gsm8k/{split}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if len(row["question"]) + len(row["answer"]) <= most_characters:
                rows.append({"prompt": row["question"] + "\n", "completion": row["answer"]})
            if len(rows) == count:
                break
    return rows


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def start_job(client: Any, data: Path, base: str = BASE, suffix: str = "math", **hyperparameters: Any) -> Any:
    with data.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model=base,
        training_file=uploaded.id,
        suffix=suffix,
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )


def wait_for(client: Any, job_id: str, *, timeout_s: float = 180.0) -> Any:
    """Poll until the job ends, as every script does."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in {"succeeded", "failed", "cancelled"}:
            return job
        time.sleep(0.3)
    raise TimeoutError(f"{job_id} is still {job.status}: {[e.message for e in events(client, job_id)]}")


def events(client: Any, job_id: str) -> list[Any]:
    """Oldest first."""
    return list(client.fine_tuning.jobs.list_events(job_id, limit=100))[::-1]


def wait_for_step(client: Any, job_id: str, step: int, *, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if any(
            (event.data or {}).get("step", 0) >= step
            for event in events(client, job_id)
            if event.type == "metrics"
        ):
            return
        time.sleep(0.1)
    raise TimeoutError(f"{job_id} never reached step {step}: {[e.message for e in events(client, job_id)]}")


def loss(client: Any, model: str, row: dict[str, str]) -> float:
    """Mean negative log-likelihood per token of the completion, in nats, scored through /v1/completions."""
    text = row["prompt"] + row["completion"]
    scored = client.completions.create(model=model, prompt=text, max_tokens=0, echo=True, logprobs=0)
    logprobs = scored.choices[0].logprobs
    start = len(row["prompt"])
    kept: list[float] = [
        p for p, at in zip(logprobs.token_logprobs, logprobs.text_offset, strict=True) if at >= start
    ]
    return -sum(kept) / len(kept)
