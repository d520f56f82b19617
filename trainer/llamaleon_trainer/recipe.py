"""One job from its directory to an adapter: check, load, prove, train, save."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .base.load import load_base
from .batches import steps_in_epoch
from .checkpoint import Checkpoints
from .device import Precision, choose_device, choose_precision
from .errors import BaseMismatch
from .events import EventWriter
from .inputs import Inputs, check_vocabulary
from .lora import add_lora, save_lora
from .parity import compare, write_logits
from .scoring import Scorer
from .train import Trainer, overfitting_warning


def run(job_dir: Path, inputs: Inputs, events: EventWriter, stopped: Callable[[], bool]) -> None:
    """Run the job, or what a killed trainer left of it, to its end; `finished` or `cancelled` comes last.

    Raises:
        JobFailed: with the code of the `failed` event.
    """
    began = time.perf_counter()
    spec = inputs.spec
    if spec.threads:
        torch.set_num_threads(spec.threads)
    device = choose_device(spec)
    precision = choose_precision(spec, device)
    checkpoints = Checkpoints(job_dir / "checkpoints", spec)
    _report_start(inputs, device, precision, checkpoints, events)
    model = load_base(Path(spec.base), device, precision.weights)
    check_vocabulary(inputs, model.get_input_embeddings().num_embeddings)
    scorer = Scorer(model, device, autocast=precision.autocast)
    _prove(scorer, inputs, events)
    wrapped = add_lora(model, spec)
    trainer = Trainer(wrapped, scorer, inputs, checkpoints, events)
    trainer.resume()
    if not trainer.run(stopped):
        events.write("cancelled", step=trainer.progress.step)
        return
    if warning := overfitting_warning(trainer.progress):
        events.write("warning", message=warning)
    if inputs.probe:
        write_logits(job_dir / "probe.adapter.npz", scorer.logits(inputs.probe))
    adapter = job_dir / "adapter"
    _save(wrapped, adapter)
    events.write(
        "finished",
        steps=trainer.steps,
        trained_tokens=trainer.progress.trained_tokens,
        seconds=time.perf_counter() - began,
        adapter=str(adapter),
    )


def _report_start(
    inputs: Inputs, device: torch.device, precision: Precision, checkpoints: Checkpoints, events: EventWriter
) -> None:
    spec, train, valid = inputs.spec, inputs.train, inputs.valid
    events.write(
        "started",
        pid=os.getpid(),
        resumed_from_step=checkpoints.newest_step(),
        steps=steps_in_epoch(len(train.examples), spec.batch_size) * spec.epochs,
        train_rows=len(train.examples),
        valid_rows=len(valid.examples),
        train_tokens=train.token_count,
        device=str(device),
        precision=precision.name,
    )
    for message in [*train.warnings, *valid.warnings]:
        events.write("warning", message=message)


def _prove(scorer: Scorer, inputs: Inputs, events: EventWriter) -> None:
    """Refuse to train on anything but the served base: adapters for another model are worthless.

    Raises:
        BaseMismatch: with the divergence that was measured.
    """
    if inputs.base_logits is None or not inputs.probe:
        events.write(
            "warning", message="no logits of the served base to compare with: the base is not proved"
        )
        return
    with np.load(inputs.base_logits) as served:
        ours = {str(index): logits for index, logits in enumerate(scorer.logits(inputs.probe))}
        try:
            parity = compare(dict(served), ours)
        except ValueError as error:
            raise BaseMismatch(f"the served base and the one loaded for training differ: {error}") from error
    events.write(
        "base_checked", mean_kl=parity.mean_kl, max_abs_diff=parity.max_abs_diff, tokens=parity.tokens
    )
    if parity.mean_kl > inputs.spec.max_base_kl:
        raise BaseMismatch(
            f"the base loaded for training is not the one that is served: mean KL {parity.mean_kl:.2e} per "
            f"token over {parity.tokens} tokens, at most {inputs.spec.max_base_kl:.2e} is allowed. "
            "Train from the GGUF itself, or from the very Hugging Face directory that it was made from."
        )


def _save(wrapped: Any, adapter: Path) -> None:
    """The final PEFT directory: beside, then renamed, in place of what an earlier end may have left."""
    temporary = adapter.with_name(".adapter.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save_lora(wrapped, temporary)
    shutil.rmtree(adapter, ignore_errors=True)
    temporary.rename(adapter)
