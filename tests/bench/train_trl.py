"""TRL's SFTTrainer with peft as a process: `train_trl.py JOB_DIR HF_DIR STEPS.json OPTIONS`.

Reads the same job directory as our trainer: the same token ids, labels, batch, schedule and LoRA settings.
Set up as its documentation advises for speed on a CPU: no gradient checkpointing, the fused AdamW, rows of
similar length together, no worker processes for rows that are in memory. OPTIONS is a JSON object of
SFTConfig's fields. Writes one [seconds since the epoch at its end, tokens, loss] a step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(job_dir: Path, base: Path, written: Path, options: dict[str, Any]) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    spec = json.loads((job_dir / "spec.json").read_text())
    rows = [json.loads(line) for line in (job_dir / "train.jsonl").read_text().splitlines()]
    data = Dataset.from_list([{"input_ids": row["tokens"], "labels": labels(row)} for row in rows])
    tokens: list[int] = []
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

    class Counting(SFTTrainer):  # type: ignore[misc]  # nor has trl
        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
            tokens.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *rest, **more)

    steps = -(-len(rows) // spec["batch_size"]) * spec["epochs"]
    settings: dict[str, Any] = {
        "per_device_train_batch_size": spec["batch_size"],
        "num_train_epochs": spec["epochs"],
        "learning_rate": spec["learning_rate"],
        "lr_scheduler_type": spec["lr_scheduler"],
        "warmup_steps": max(1, round(spec["warmup_fraction"] * steps)),
        "max_grad_norm": spec["max_grad_norm"],
        "weight_decay": spec["weight_decay"],
        "optim": "adamw_torch_fused",
        "bf16": spec["precision"] == "bfloat16",
        "max_length": spec["max_sequence_tokens"],
        "packing": spec["packing"],
        "train_sampling_strategy": "group_by_length",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": spec["seed"],
    }
    lora = spec["lora"]
    trainer = Counting(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True),
        args=SFTConfig(output_dir=str(written.with_suffix("")), **{**settings, **options}),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(base, local_files_only=True),
        peft_config=LoraConfig(r=lora["r"], lora_alpha=lora["lora_alpha"], target_modules="all-linear"),
        callbacks=[Clock()],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    passes = len(tokens) // len(ends)
    summed = [sum(tokens[start : start + passes]) for start in range(0, len(tokens), passes)]
    written.write_text(json.dumps(list(zip(ends, summed, losses, strict=True))))


def labels(row: dict[str, Any]) -> list[int]:
    return [token if weight else -100 for token, weight in zip(row["tokens"], row["weights"], strict=True)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
