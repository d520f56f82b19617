"""The job directory: the whole contract between the server and the training sidecar. No torch here.

The server writes everything above the line, the trainer everything below it:

    spec.json                 JobSpec
    train.jsonl, valid.jsonl  one Row a line: token ids and where the loss counts
    probe.json                list of token-id lists, for the proofs of parity
    probe.base.npz            the served base's logits on the probe, "0", "1", ... (n_tokens, n_vocab) float32
    cancel                    an empty file: stop at the next step, keep what there is
    -------------------------------------------------------------------------------
    trainer.lock              held (flock) by the running trainer; holds its pid
    events.jsonl              one Event a line, append-only, flushed each line
    checkpoints/step-N/       PEFT directory plus optimizer and RNG state; complete once renamed; the newest
                              three and the one with the lowest held-out loss are kept
    adapter/                  the final PEFT directory
    probe.adapter.npz         the trained model's logits on the probe, same layout as probe.base.npz
    trainer.log               standard error of the process
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct


class Row(Struct, frozen=True, omit_defaults=True):
    """One training sequence, rendered and tokenised by the code that serves.

    `tokens` are ids of the served vocabulary; `weights[i]` says how much predicting `tokens[i]` counts
    (0 for prompts, 1 for answers; dimensionless). Both have length `n_tokens`.
    """

    tokens: list[int]
    weights: list[float]


class LoraSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PEFT's names: `r`, `lora_alpha`, `lora_dropout`; targets "all-linear" or module name suffixes."""

    r: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    use_rslora: bool = False
    target_modules: str | list[str] = "all-linear"


class JobSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One supervised LoRA job. Every number is final here: "auto" was resolved by the server."""

    job_id: str
    base: str  # path of the served GGUF, or of a Hugging Face directory
    lora: LoraSettings = LoraSettings()
    epochs: int = 3
    batch_size: int = 8  # rows per optimizer step
    micro_batch_size: int | None = None  # rows per forward pass; None: batch_size, halved on out-of-memory
    learning_rate: float = 2e-4
    warmup_fraction: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_sequence_tokens: int = 2048
    seed: int = 0
    eval_every_steps: int | None = None  # None: ten times over the job
    save_every_steps: int | None = None  # None: once an epoch
    device: str = "auto"  # auto, cpu, cuda
    precision: str = "auto"  # auto, float32, bfloat16
    threads: int | None = None
    max_base_kl: float = 0.02  # mean KL per token above which the base does not count as the served one


class Event(Struct, frozen=True, omit_defaults=True):
    """One line of events.jsonl. `type` and the keys of `data`:

    started       pid, resumed_from_step, steps, train_rows, valid_rows, train_tokens, device, precision
    base_checked  mean_kl, max_abs_diff, tokens
    step          step, epoch, train_loss, train_accuracy, learning_rate, grad_norm, tokens_per_s,
                  memory_bytes, eta_s, trained_tokens
    eval          step, valid_loss, valid_accuracy
    checkpoint    step, path, and the newest train_loss, train_accuracy, valid_loss, valid_accuracy
    warning       message
    finished      steps, trained_tokens, seconds, adapter   (path)
    cancelled     step
    failed        code, message    (code: base_mismatch, base_unsupported, out_of_memory, bad_job,
                  not_installed, diverged, internal)

    A trainer killed and started again goes on from its newest checkpoint: `started` comes again with
    `resumed_from_step`, and `step` and `eval` events come again for the steps after it. The later one holds.
    """

    type: str
    time: float  # seconds since the epoch
    data: dict[str, Any] = {}


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, sync, rename: a reader sees the old file or the whole new one."""
    import os

    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_spec(job_dir: Path) -> JobSpec:
    return msgspec.json.decode((job_dir / "spec.json").read_bytes(), type=JobSpec)


def write_spec(job_dir: Path, spec: JobSpec) -> None:
    write_atomic(job_dir / "spec.json", msgspec.json.encode(spec))
