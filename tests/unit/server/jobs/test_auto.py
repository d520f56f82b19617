"""What "auto" becomes, and the gates."""

from __future__ import annotations

from typing import Any

import pytest

from llamaleon_server.jobs.auto import max_sequence_tokens, parity_gate, resolve

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
