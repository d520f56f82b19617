"""Job directories as the server writes them, on the small trained model and real rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tests.data import shared
from tests.tiny.reference import open_model

from llamaleon_trainer.events import EventWriter, read_events
from llamaleon_trainer.inputs import read_inputs
from llamaleon_trainer.job import Event, JobSpec, LoraSettings, PreferenceRow, Row, write_spec
from llamaleon_trainer.parity import write_logits
from llamaleon_trainer.recipe import run
from llamaleon_trainer.train import Stop

PROBE = [list(range(3, 30)), list(range(100, 130))]


def stories_base() -> Path:
    return shared("stories260K/stories260K-f32.gguf")


def write_job(directory: Path, rows: int = 18, **changes: Any) -> Path:
    """Questions and answers about numbers, answers counted; the last two rows are held out."""
    directory.mkdir(parents=True, exist_ok=True)
    base = stories_base()
    lines = shared("gsm8k/train.jsonl").read_text().splitlines()[:rows]
    with open_model(base) as model:
        tokenised = [_row(model.tokenize, json.loads(line)) for line in lines]
        write_logits(directory / "probe.base.npz", [model.logits(tokens) for tokens in PROBE])
    write_rows(directory / "train.jsonl", tokenised[:-2])
    write_rows(directory / "valid.jsonl", tokenised[-2:])
    (directory / "probe.json").write_bytes(msgspec.json.encode(PROBE))
    defaults: dict[str, Any] = {
        "job_id": "job",
        "base": str(base),
        "lora": LoraSettings(r=4, lora_alpha=8),
        "learning_rate": 0.01,
        "max_sequence_tokens": 128,
        "precision": "float32",
        "threads": 1,
    }
    write_spec(directory, JobSpec(**{**defaults, **changes}))
    return directory


def write_rows(path: Path, rows: Sequence[Row | PreferenceRow]) -> None:
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def as_preferences(job: Path) -> None:
    """Each row's answer is better than the next one's."""
    for part in ("train", "valid"):
        path = job / f"{part}.jsonl"
        rows = [msgspec.json.decode(line, type=Row) for line in path.read_bytes().splitlines()]
        write_rows(path, [PreferenceRow(*pair) for pair in zip(rows, rows[1:] + rows[:1], strict=True)])


def run_here(directory: Path, stop_after: int | None = None) -> list[Event]:
    """Run the job in this process, asking it to pause after so many steps; its events."""
    writer = EventWriter(directory / "events.jsonl")

    def stopped() -> Stop | None:
        steps = [event for event in events(directory) if event.type == "step"]
        return "paused" if stop_after is not None and len(steps) >= stop_after else None

    try:
        run(directory, read_inputs(directory), writer, stopped)
    finally:
        writer.close()
    return events(directory)


def events(directory: Path, type: str | None = None) -> list[Event]:
    found, _ = read_events(directory / "events.jsonl")
    return [event for event in found if type is None or event.type == type]


def losses(directory: Path) -> dict[int, float]:
    """Training loss by step; of a step that came twice the later one, as a reader must take it."""
    return {event.data["step"]: event.data["train_loss"] for event in events(directory, "step")}


def adapter_weights(directory: Path) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    from safetensors.numpy import load_file

    return load_file(directory / "adapter" / "adapter_model.safetensors")


def _row(tokenize: Any, example: dict[str, str]) -> Row:
    prompt, answer = tokenize(example["question"][:60]), tokenize(" " + example["answer"][:60])
    return Row(prompt + answer, [0.0] * len(prompt) + [1.0] * len(answer))
