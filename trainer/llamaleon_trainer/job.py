"""The job directory: the whole contract between the server and the training sidecar. No torch here.

The server writes everything above the line, the trainer everything below it:

    spec.json                 JobSpec
    train.jsonl, valid.jsonl  one Row a line: token ids and where the loss counts; PreferenceRows of a dpo job
    probe.json                list of token-id lists, for the proofs of parity
    probe.base.npz            the served base's logits on the probe, "0", "1", ... (n_tokens, n_vocab) float32
    cancel, pause             empty files: stop at the next step with a checkpoint; a paused job is to go on
    -------------------------------------------------------------------------------
    trainer.lock              held (flock) by the running trainer; holds its pid
    events.jsonl              one Event a line, append-only, flushed each line
    checkpoints/step-N/       PEFT directory, complete once renamed; the newest three and the one with the
                              lowest held-out loss have trainer_state.pt too, to go on from
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


class PreferenceRow(Struct, frozen=True):
    """Two answers to one prompt, of which the first is liked better; the weights mark the answers."""

    chosen: Row
    rejected: Row


class LoraSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PEFT's names: `r`, `lora_alpha`, `lora_dropout`.

    `target_modules`: "auto" (every linear layer that a GGUF LoRA can express for this base), "all-linear"
    (peft's: refused if one of them cannot be expressed), or module name suffixes.
    """

    r: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    use_rslora: bool = False
    target_modules: str | list[str] = "auto"


METHODS = ("supervised", "dpo")
BASE_WEIGHTS = ("auto", "full", "nf4", "gguf")
SCHEDULERS = ("cosine", "linear", "constant")
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit")
PRECISIONS = ("auto", "float32", "bfloat16")
SHARDINGS = ("none", "fsdp", "deepspeed")
REPORTERS = ("tensorboard", "wandb")


class Wandb(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's `integrations[].wandb`."""

    project: str
    name: str | None = None
    entity: str | None = None
    tags: list[str] = []


class JobSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One LoRA job. Every number is final here: "auto" was resolved by the server.

    What stays "auto" or None is what only the trainer can know: the device, and what fits into its memory.
    """

    job_id: str
    base: str  # path of the served GGUF, or of a Hugging Face directory
    lora: LoraSettings = LoraSettings()
    init_adapter: str | None = None  # PEFT directory whose LoRA weights training begins with
    method: str = "supervised"  # METHODS
    dpo_beta: float = 0.1  # how far a preference may move the model from its base; dpo only
    base_weights: str = "auto"  # BASE_WEIGHTS: how the frozen base lies in memory (gguf: its own blocks)
    epochs: int = 3
    max_steps: int | None = None  # ends the job before its epochs do
    batch_size: int = 8  # rows per optimizer step
    micro_batch_size: int | None = None  # rows per forward pass; None: as many as fit into memory
    packing: bool = False  # several rows in one sequence, none of which sees another
    group_by_length: bool = True  # rows of similar length share a batch
    learning_rate: float = 2e-4
    find_learning_rate: bool = False  # measure it first: `learning_rate` is then the highest that is tried
    lr_scheduler: str = "cosine"  # SCHEDULERS
    warmup_fraction: float = 0.05
    optimizer: str = "adamw"  # OPTIMIZERS
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    neftune_noise_alpha: float = 0.0
    gradient_checkpointing: bool = False
    tf32: bool = True
    early_stopping_patience: int | None = None  # held-out evaluations in a row that were not better
    load_best: bool = False  # the adapter is the checkpoint of the lowest held-out loss, not the last
    max_sequence_tokens: int = 2048
    seed: int = 0
    eval_every_steps: int | None = None  # None: ten times over the job
    save_every_steps: int | None = None  # None: once an epoch
    device: str = "auto"  # auto, cpu, cuda
    precision: str = "auto"  # PRECISIONS
    threads: int | None = None
    processes: int = 1  # of one machine, through accelerate
    sharding: str = "none"  # SHARDINGS, of the base over the processes
    report_to: list[str] = []  # REPORTERS; TensorBoard's files go to the job directory's `tensorboard/`
    wandb: Wandb | None = None
    max_base_kl: float = 0.02  # mean KL per token above which the base does not count as the served one


class Event(Struct, frozen=True, omit_defaults=True):
    """One line of events.jsonl. `type` and the keys of `data`:

    started       pid, resumed_from_step, steps, train_rows, valid_rows, train_tokens, device, precision
    estimate      memory_bytes, seconds, basis   (before the first step; what the whole job will take)
    lr_found      learning_rate, tried, losses
    base_checked  mean_kl, max_abs_diff, tokens
    step          step, epoch, train_loss, train_accuracy, learning_rate, grad_norm, tokens_per_s,
                  memory_bytes, eta_s, trained_tokens   (dpo: also reward_margin)
    eval          step, valid_loss, valid_accuracy   (dpo: also reward_margin)
    checkpoint    step, path, and the newest train_loss, train_accuracy, valid_loss, valid_accuracy
    warning       message
    finished      steps, trained_tokens, seconds, adapter   (path)
    cancelled     step
    paused        step
    failed        code, message    (code: base_mismatch, base_unsupported, out_of_memory, bad_job,
                  not_installed, diverged, internal)

    A trainer killed and started again goes on from its newest checkpoint: `started` comes again with
    `resumed_from_step`, then that `checkpoint`, and `step` and `eval` events come again for the steps after
    it. The later one holds.
    """

    type: str
    time: float  # seconds since the epoch
    data: dict[str, Any] = {}


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, sync, rename: a reader sees the old file or the whole new one."""
    import os

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # others may write the same file
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_spec(job_dir: Path) -> JobSpec:
    return msgspec.json.decode((job_dir / "spec.json").read_bytes(), type=JobSpec)


def write_spec(job_dir: Path, spec: JobSpec) -> None:
    write_atomic(job_dir / "spec.json", msgspec.json.encode(spec))
