"""Job files of other trainers, the search, and versions, against a real server that really trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.flow import BASE, gsm8k_rows, write_jsonl
from tests.integration.test_command import COMMAND
from tests.server import RunningServer

Run = Callable[..., subprocess.CompletedProcess[str]]
AXOLOTL = """
base_model: karpathy/stories260K        # served as stories260K-f32
model_type: LlamaForCausalLM
tokenizer_type: AutoTokenizer
load_in_4bit: false
datasets:
  - path: preguntas.jsonl
    type: alpaca_chat.load_qa
val_set_size: 0.2
output_dir: ./outputs/cuentas
adapter: lora
lora_r: 8
lora_alpha: 16
lora_dropout: 0.0
lora_target_linear: true
sequence_len: 512
micro_batch_size: 4
gradient_accumulation_steps: 2
num_epochs: 2
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 4e-3
train_on_inputs: false
group_by_length: true
bf16: false
tf32: false
gradient_checkpointing: false
flash_attention: true
seed: 3
"""


@pytest.fixture
def llamaleon(stories: RunningServer, tmp_path: Path) -> Run:
    environment = {**os.environ, "LLAMALEON_HOME": str(stories.home), "LLAMALEON_LANG": "en"}
    environment["LLAMALEON_URL"] = stories.url

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            env=environment, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=300, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [{"question": row["prompt"], "answer": row["completion"]} for row in gsm8k_rows(24)]
    return write_jsonl(tmp_path / "preguntas.jsonl", rows)


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_an_axolotl_config_and_olives_flags_train_two_versions(
    llamaleon: Run, questions: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yml").write_text(AXOLOTL, encoding="utf-8")
    trained = llamaleon("train", "config.yml", "--json")
    job = as_json(trained)["job"]
    assert "config.yml, line 3: `model_type` is not honoured" in trained.stderr
    assert f"karpathy/stories260K is served here as {BASE}." in trained.stderr
    asked = job["method"]["supervised"]["hyperparameters"]
    assert (asked["n_epochs"], asked["batch_size"], asked["lora_r"]) == (2, 8, 8)
    assert (job["status"], job["seed"]) == ("succeeded", 3)

    flags = (
        *("-m", BASE, "-d", questions.name, "--text_template", r"{question}\n{answer}"),
        *("--max_steps", "4", "--per_device_train_batch_size", "8", "--learning_rate", "4e-3"),
        *("--lora_r", "4", "-o", "outputs/cuentas"),
    )
    second = as_json(llamaleon("finetune", *flags, "--json"))["job"]
    assert second["status"] == "succeeded"

    listed = as_json(llamaleon("versions", "cuentas", "--json"))["data"]
    assert [(one["version"], one["rank"], one["serving"]) for one in listed] == [(1, 8, False), (2, 4, True)]
    back = as_json(llamaleon("rollback", f"{BASE}+cuentas", "--json"))
    assert (back["version"], back["rolled_back_from"]) == (1, 2)
    promoted = as_json(llamaleon("promote", second["fine_tuned_model"], "--json"))
    assert (promoted["version"], promoted["serving"]) == (2, True)
    chatted = llamaleon("chat", job["fine_tuned_model"], "Hi", "--max-tokens", "4", "--temperature", "0")
    assert chatted.returncode == 0, chatted.stderr


def test_a_search_serves_the_best(llamaleon: Run, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "filas.jsonl", gsm8k_rows(24))
    line = (
        *("tune", rows.name, "--base", BASE, "--name", "buscado", "--trials", "2", "--seed", "5"),
        *("--learning-rate", "1e-4:1e-2", "--rank", "2,4", "--batch-size", "8", "--max-steps", "6"),
    )
    found = as_json(llamaleon(*line, "--json"))
    assert len(found["trials"]) == 2
    best = min(
        (one for one in found["trials"] if one["state"] == "complete"), key=lambda one: float(one["loss"])
    )
    assert found["best"] == best["number"]
    versions = as_json(llamaleon("versions", "buscado", "--json"))["data"]
    assert [(one["id"], one["serving"]) for one in versions] == [(found["model"], True)]
    assert versions[0]["rank"] == best["settings"]["lora_r"]
    again = as_json(llamaleon(*line, "--json"))  # nothing is left to try
    assert again["trials"] == found["trials"]
