"""From a file or from flags of other trainers to the exact body of `POST /v1/fine_tuning/jobs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer
from tests.unit.clients.jobfiles.test_axolotl import CONFIG

from llamaleon_clients.jobfiles.bases import same_model

HUB = "bartowski/Meta-Llama-3-8B-GGUF:Q4_K_M"


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "datos.jsonl"
    path.write_text(json.dumps({"instruction": "¿?", "output": "sí"}), encoding="utf-8")
    return path


def body_of(server: FakeServer) -> Any:
    [body] = [asked for method, kind, asked in server.requests if (method, kind) == ("POST", "job")]
    return body


def test_our_file(llamaleon: Llamaleon, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "datos.jsonl").rename(tmp_path / "folder" / "datos.jsonl")
    job = tmp_path / "folder" / "job.yml"
    job.write_text(
        "base: nano\ndata: datos.jsonl\nname: poeta\nseed: 3\ndeploy: false\nn_epochs: 2\n"
        "learning_rate: 1e-4\nwandb: p\ntensorboard: true\nmetadata: {a: b}\n"
    )
    result = llamaleon("train", str(job), "--url", server.url, "--epochs", "5")
    assert result.exit_code == 0, result.stderr
    assert body_of(server) == {
        "model": "nano",
        "training_file": "file-1",
        "suffix": "poeta",
        "seed": 3,
        "deploy": False,
        "metadata": {"a": "b"},
        "integrations": [{"type": "tensorboard"}, {"type": "wandb", "wandb": {"project": "p"}}],
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 5, "learning_rate": 1e-4}},
        },
    }


def test_an_axolotl_config(llamaleon: Llamaleon, server: FakeServer, tmp_path: Path) -> None:
    server.models[HUB] = {"id": HUB, "object": "model", "created": 1, "owned_by": "local"}
    (tmp_path / "config.yml").write_text(CONFIG, encoding="utf-8")
    result = llamaleon("train", "config.yml", "--url", server.url)
    assert result.exit_code == 0, result.stderr
    assert "config.yml, line 4: `model_type` is not honoured" in result.stderr
    assert f"NousResearch/Meta-Llama-3-8B is served here as {HUB}." in result.stderr
    assert body_of(server) == {
        "model": HUB,
        "training_file": "file-1",
        "suffix": "qlora-out",
        "method": {
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "base_weights": "nf4",
                    "held_out_fraction": 0.05,
                    "max_sequence_tokens": 4096,
                    "packing": True,
                    "lora_r": 32,
                    "lora_alpha": 16,
                    "lora_dropout": 0.05,
                    "lora_target_modules": ["q_proj", "v_proj"],
                    "batch_size": 8,
                    "micro_batch_size": 2,
                    "n_epochs": 4,
                    "optimizer": "adamw_8bit",
                    "lr_scheduler": "cosine",
                    "learning_rate": 0.0002,
                    "group_by_length": False,
                    "precision": "auto",
                    "tf32": False,
                    "gradient_checkpointing": True,
                    "weight_decay": 0.0,
                }
            },
        },
    }
    assert json.loads(server.uploads[0]) == {"instruction": "¿?", "output": "sí"}


def test_olives_flags(llamaleon: Llamaleon, server: FakeServer) -> None:
    line = (
        *("finetune", "--method", "qlora", "--model_name_or_path", "nano", "--data_name", "datos.jsonl"),
        *("--text_template", r"### P: {instruction}\n### R: {output}", "--max_steps", "20"),
        *("--per_device_train_batch_size", "4", "--lora_r", "8", "--logging_steps", "5"),
        *("-o", "out/poeta", "--url", server.url),
    )
    result = llamaleon(*line)
    assert result.exit_code == 0, result.stderr
    assert "--logging_steps is not honoured" in result.stderr
    assert body_of(server) == {
        "model": "nano",
        "training_file": "file-1",
        "suffix": "poeta",
        "text_template": "### P: {instruction}\n### R: {output}",
        "method": {
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "base_weights": "nf4",
                    "lora_r": 8,
                    "max_steps": 20,
                    "micro_batch_size": 4,
                    "batch_size": 4,
                }
            },
        },
    }


def test_a_base_that_is_not_served(llamaleon: Llamaleon, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(CONFIG, encoding="utf-8")
    result = llamaleon("train", "config.yml", "--url", server.url)
    assert result.exit_code == 1
    assert "No model here is NousResearch/Meta-Llama-3-8B; there are: nano." in result.stderr
    assert "`llamaleon search Meta-Llama-3-8B`" in result.stderr
    assert server.uploads == []
    instead = llamaleon("train", "config.yml", "--base", "nano", "--name", "otro", "--url", server.url)
    assert instead.exit_code == 0, instead.stderr
    assert (body_of(server)["model"], body_of(server)["suffix"]) == ("nano", "otro")


def test_several_files_of_the_base(llamaleon: Llamaleon, server: FakeServer, tmp_path: Path) -> None:
    for name in (HUB, "meta-llama-3-8b-q8_0"):
        server.models[name] = {"id": name, "object": "model", "created": 1, "owned_by": "local"}
    (tmp_path / "config.yml").write_text(CONFIG, encoding="utf-8")
    result = llamaleon("train", "config.yml", "--url", server.url)
    assert result.exit_code == 1
    assert f"as several models: {HUB}, meta-llama-3-8b-q8_0." in result.stderr


@pytest.mark.parametrize(
    ("wanted", "name", "same"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", True),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama-3.2-1b-instruct-q8_0", True),
        ("meta-llama/Llama-3.2-1B", "llama-3.2-1b-instruct-q8_0", False),
        ("Qwen/Qwen2.5-0.5B", "qwen2.5-0.5b-f16", True),
        ("Qwen/Qwen2.5-0.5B", "qwen2.5-1.5b-f16", False),
        ("./models/nano", "nano", True),
        ("x/Tiny", "somebody/Tiny-GGUF:IQ2_XXS", True),
    ],
)
def test_the_same_model_under_another_name(wanted: str, name: str, same: bool) -> None:
    assert same_model(wanted, [name]) == ([name] if same else [])
