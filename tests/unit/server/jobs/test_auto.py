"""What "auto" becomes, and the gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.data import REPOSITORY

from llamaleon_server.jobs.auto import (
    LORA_FIELDS,
    OF_THE_SERVER,
    RENAMED,
    job_spec,
    max_sequence_tokens,
    parity_gate,
    resolve,
    spec_fields,
)
from llamaleon_server.registry.jobstore import JobRecord
from llamaleon_server.wire.hyperparameters import RULES
from llamaleon_trainer.job import JobSpec, Wandb

BILLION = 10**9


def resolved(requested: dict[str, Any] | None = None, rows: int = 300, parameters: int = 7 * BILLION) -> Any:
    return resolve(requested or {}, rows=rows, parameters=parameters, context_tokens=4096)


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"),
    [(1, 1, 20), (10, 1, 15), (64, 1, 2), (100, 2, 3), (300, 4, 2), (1000, 16, 2), (10**6, 16, 2)],
)
def test_few_rows_are_seen_often_and_many_in_batches(rows: int, batch_size: int, epochs: int) -> None:
    found = resolved(rows=rows)
    assert (found["batch_size"], found["n_epochs"]) == (batch_size, epochs)


@pytest.mark.parametrize(("parameters", "rate"), [(7 * BILLION, 2e-4), (BILLION // 2, 5e-4), (10**7, 2e-3)])
def test_small_models_take_larger_steps(parameters: int, rate: float) -> None:
    assert resolved(parameters=parameters)["learning_rate"] == pytest.approx(rate)


def test_what_was_asked_for_stays() -> None:
    asked = {
        "n_epochs": 7,
        "batch_size": 3,
        "learning_rate_multiplier": 2,
        "lora_r": 4,
        "lora_alpha": 4.0,
        "lora_dropout": 0.1,
        "max_sequence_tokens": 100,
        "held_out_fraction": 0.2,
    }
    assert resolved(asked) == asked | {"learning_rate": 4e-4}
    assert resolved({"learning_rate": 1e-3})["learning_rate_multiplier"] == 5.0
    assert resolved({"n_epochs": "auto"}) == resolved({})


def test_the_rank_sets_alpha_and_dropout_may_be_zero() -> None:
    found = resolved({"lora_r": 8, "lora_dropout": 0})
    assert (found["lora_alpha"], found["lora_dropout"]) == (16.0, 0.0)


def test_sequences_end_where_the_model_ends() -> None:
    assert max_sequence_tokens({}, 512) == 512
    assert max_sequence_tokens({}, 32768) == 2048
    assert max_sequence_tokens({"max_sequence_tokens": 4000}, 512) == 4000  # refused later, by name


def test_gates_follow_the_precision_that_is_served() -> None:
    assert parity_gate("F32", "f16") < parity_gate("F16", "f16") < parity_gate("Q4_K", "f16")
    assert parity_gate("F32", "q8_0") == parity_gate("Q4_K", "f16")


def test_an_adapter_may_be_off_as_its_base_is() -> None:
    """A GPU rounds what a processor does not, for both alike."""
    assert parity_gate("F32", "f16", 1e-9) == parity_gate("F32", "f16")
    assert parity_gate("F32", "f16", 2e-4) == pytest.approx(6e-4)
    assert parity_gate("Q4_K", "f16", 2e-4) == parity_gate("Q4_K", "f16")
    assert parity_gate("F16", "f16", 1.0) < 0.1, "a wrong adapter is off by that"


def test_preferences_are_learnt_in_smaller_steps() -> None:
    found = resolve({}, rows=300, parameters=BILLION, context_tokens=4096, method="dpo")
    assert found["learning_rate"] == pytest.approx(2e-5)


def test_every_hyperparameter_reaches_the_trainer_or_is_the_server_s() -> None:
    """None that is accepted is dropped on the way, and the page names them all."""
    page = (REPOSITORY / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
    known = {field.name for field in msgspec.structs.fields(JobSpec)}
    for name in RULES:
        assert f"`{name}`" in page
        if name in OF_THE_SERVER:
            continue
        value = {"lora_target_modules": ["q_proj"], "lr_scheduler": "linear", "optimizer": "adamw_8bit"}
        sent = spec_fields(resolved({name: value.get(name, 1)}))
        assert sent.keys() <= known
        fields = sent["lora"] if name in LORA_FIELDS else sent
        assert LORA_FIELDS.get(name, RENAMED.get(name, name)) in fields, name


def test_the_job_that_the_trainer_is_told() -> None:
    wandb = {"project": "p", "name": None, "entity": "e", "tags": ["t"]}
    record = JobRecord(
        id="ftjob-1",
        created_at=1,
        model="tiny+a",
        base="tiny",
        adapter="b",
        suffix="b",
        training_file="file-1",
        validation_file=None,
        seed=3,
        method="dpo",
        init_adapter="a@2",
        integrations=[{"type": "tensorboard"}, {"type": "wandb", "wandb": wandb}],
    )
    spec = job_spec(record, Path("/m.gguf"), {"beta": 0.3, "gate_margin": 1.0}, Path("/jobs/1"))
    assert (spec.method, spec.dpo_beta, spec.init_adapter) == ("dpo", 0.3, "/jobs/1/init")
    assert spec.report_to == ["tensorboard", "wandb"]
    assert spec.wandb == Wandb(project="p", entity="e", tags=["t"])
