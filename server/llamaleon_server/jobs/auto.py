"""What "auto" means: hyperparameters from the size of the data set and of the model.

batch_size                about rows / 64, as a power of two from 1 to 16
n_epochs                  about 150 optimizer steps, from 2 to 20 epochs: few rows are seen several times
learning_rate_multiplier  of 2e-4: 1 from a billion parameters on, 2.5 from 100 million, 10 below
                          (the smaller the model, the larger the steps that LoRA needs)
lora_r, lora_alpha        16, and twice the rank
max_sequence_tokens       2048, or the model's own context if that is shorter
held_out_fraction         0.1 (at least one row)

Preferences (dpo) are learnt at a tenth of the learning rate: they only move what a model can do already.

The trainer's other settings keep its own defaults (`llamaleon_trainer.job.JobSpec`) unless they are given.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from llamaleon_server.jobs.continuing import INIT_DIRECTORY
from llamaleon_server.registry.jobstore import JobRecord
from llamaleon_server.wire.hyperparameters import AUTO, FIND, RULES
from llamaleon_trainer.job import JobSpec

DEFAULT_LEARNING_RATE = 2e-4
DPO_SHARE = 0.1  # of what a supervised job would take
HIGHEST_LEARNING_RATE = 1e-1  # where looking for one ends

LORA_FIELDS = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "use_rslora": "use_rslora",
}
RENAMED = {"n_epochs": "epochs", "beta": "dpo_beta"}
GATE = {"gate_metric", "gate_margin"}
OF_THE_SERVER = {"learning_rate_multiplier", "held_out_fraction", *GATE}  # the trainer sees what follows
RESOLVED = {
    "n_epochs",
    "batch_size",
    "learning_rate",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "max_sequence_tokens",
}
PASSED_ON = RULES.keys() - RESOLVED - (OF_THE_SERVER - GATE)
WANTED_STEPS = 150
DEFAULT_SEQUENCE_TOKENS = 2048

# Mean KL per token (nats) up to which trainer and engine count as the same model. The targets are 1e-6 on
# F32 and 1e-4 on F16; quantised weights are multiplied in lower precision by the engine (2e-4 to 2e-3 was
# measured on Q8_0 and Q4_K_M). The gates leave a factor of ten for unlucky prompts: a wrong adapter is off
# by 0.1 and more. Where trainer or engine compute less exactly than on a processor (TF32, bfloat16 weights),
# they do so for the base alone: by what it was off, an adapter may be off, too.
PARITY_GATES = {"F32": 1e-5, "F16": 1e-3, "BF16": 1e-3}
PARITY_GATE_QUANTISED = 2e-2
TIMES_THE_BASE, MOST_PARITY_GATE = 3, 5e-2
PRECISE_KV_TYPES = {"f32", "f16", "bf16"}


def parity_gate(weight_type: str, kv_type: str, base_kl: float = 0.0) -> float:
    """Mean KL per token (nats) above which an adapter is not deployed. `base_kl`: that of the base alone."""
    gate = PARITY_GATE_QUANTISED
    if kv_type in PRECISE_KV_TYPES:
        gate = PARITY_GATES.get(weight_type, gate)
    return max(gate, min(TIMES_THE_BASE * base_kl, MOST_PARITY_GATE))


def max_sequence_tokens(requested: dict[str, Any], context_tokens: int) -> int:
    """`context_tokens`: the longest sequence that the resident base serves."""
    given = _given(requested, "max_sequence_tokens")
    return min(DEFAULT_SEQUENCE_TOKENS, context_tokens) if given is None else int(given)


def held_out_fraction(requested: dict[str, Any]) -> float:
    return float(_given(requested, "held_out_fraction") or 0.1)


def resolve(
    requested: dict[str, Any],
    *,
    rows: int,
    parameters: int,
    context_tokens: int,
    method: str = "supervised",
) -> dict[str, Any]:
    """Every hyperparameter as a number. `rows` are those trained on, `parameters` those of the base.

    >>> resolve({}, rows=300, parameters=7_000_000_000, context_tokens=4096)["n_epochs"]
    4
    """
    batch_size = int(_given(requested, "batch_size") or _batch_size(rows))
    learning_rate = _given(requested, "learning_rate")
    finding = learning_rate == FIND
    if finding:
        learning_rate = HIGHEST_LEARNING_RATE
    multiplier = _given(requested, "learning_rate_multiplier")
    if learning_rate is None:
        multiplier = _multiplier(parameters, method) if multiplier is None else multiplier
        learning_rate = DEFAULT_LEARNING_RATE * multiplier
    else:
        multiplier = learning_rate / DEFAULT_LEARNING_RATE
    rank = int(_given(requested, "lora_r") or 16)
    return {
        "n_epochs": int(_given(requested, "n_epochs") or _epochs(rows, batch_size)),
        "batch_size": batch_size,
        "learning_rate_multiplier": float(f"{multiplier:.6g}"),
        "learning_rate": float(f"{learning_rate:.6g}"),
        "lora_r": rank,
        "lora_alpha": float(_given(requested, "lora_alpha") or 2 * rank),
        "lora_dropout": float(_given(requested, "lora_dropout") or 0.0),
        "max_sequence_tokens": max_sequence_tokens(requested, context_tokens),
        "held_out_fraction": held_out_fraction(requested),
        **({"find_learning_rate": True} if finding else {}),
        **{key: value for key, value in requested.items() if key in PASSED_ON and value != AUTO},
    }


def spec_fields(resolved: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters by the API's names -> fields of `JobSpec`.

    >>> spec_fields({"n_epochs": 3, "lora_r": 8, "learning_rate_multiplier": 1.0})
    {'epochs': 3, 'lora': {'r': 8}}
    """
    fields: dict[str, Any] = {}
    lora: dict[str, Any] = {}
    for key, value in resolved.items():
        if key in LORA_FIELDS:
            lora[LORA_FIELDS[key]] = value
        elif key not in OF_THE_SERVER:
            fields[RENAMED.get(key, key)] = value
    return fields | {"lora": lora}


def job_spec(record: JobRecord, base: Path, resolved: dict[str, Any], directory: Path) -> JobSpec:
    """What the trainer is told; `resolved` is what `resolve` has returned, `directory` the job's."""
    fields = {
        "job_id": record.id,
        "base": str(base),
        "seed": record.seed,
        "method": record.method,
        "init_adapter": None if record.init_adapter is None else str(directory / INIT_DIRECTORY),
        "report_to": [one["type"] for one in record.integrations],
        "wandb": next((one["wandb"] for one in record.integrations if one["type"] == "wandb"), None),
        **spec_fields(resolved),
    }
    return msgspec.convert(fields, JobSpec)


def _given(requested: dict[str, Any], key: str) -> Any:
    value = requested.get(key)
    return None if value == AUTO else value


def _batch_size(rows: int) -> int:
    exponent = round(math.log2(max(rows, 1) / 64))
    return 1 << min(4, max(0, exponent))


def _epochs(rows: int, batch_size: int) -> int:
    return min(20, max(2, round(WANTED_STEPS * batch_size / max(rows, 1))))


def _multiplier(parameters: int, method: str) -> float:
    share = DPO_SHARE if method == "dpo" else 1.0
    if parameters >= 1_000_000_000:
        return share
    return share * (2.5 if parameters >= 100_000_000 else 10.0)
