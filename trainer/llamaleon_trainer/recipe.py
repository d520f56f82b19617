"""One job from its directory to an adapter: check, load, prove, train, save."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .base.load import base_kl_limit, load_base
from .checkpoint import Checkpoints, whole_directory
from .device import Precision, choose_device, choose_precision, fast_products
from .dpo import DirectPreference
from .errors import BaseMismatch
from .events import EventWriter
from .fused import fused
from .inputs import Inputs, check_vocabulary
from .job import JobSpec
from .lora import add_lora, load_lora, save_lora
from .objectives import Objective, Supervised
from .packing import packed_attention, packs
from .parallel import ALONE, Ranks
from .parity import compare, write_logits
from .passes import Passes
from .preflight import preflight
from .scoring import Scorer
from .served import blocks_scorer, proved_apart, scorer_instead
from .targets import checked_base_weights
from .train import Stopped, Trainer, overfitting_warning, steps_in_job

PACKING_PROBE_ROWS = 3
PACKING_PROBE_TOKENS = 512


def run(job_dir: Path, inputs: Inputs, events: EventWriter, stopped: Stopped, ranks: Ranks = ALONE) -> None:
    """Run the job, or what a killed trainer left of it, to its end: `finished`, `cancelled` or `paused`.

    Raises:
        JobFailed: with the code of the `failed` event.
    """
    began = time.perf_counter()
    spec = inputs.spec
    if spec.threads and ranks.size == 1:  # several were given theirs when they were started
        torch.set_num_threads(spec.threads)
    device = ranks.device(choose_device(spec))
    precision = choose_precision(spec, device)
    checkpoints = Checkpoints(job_dir / "checkpoints", spec)
    _report_start(inputs, device, precision, checkpoints, events)
    model = _load(inputs, device, precision.weights, events)
    scorer = Scorer(model, device, autocast=precision.autocast)
    packed = spec.packing and _packs(model, inputs, events)
    wrapped = add_lora(model, spec)
    if spec.init_adapter:
        load_lora(wrapped, Path(spec.init_adapter))
    ranks.shard(model)
    objective = _objective(wrapped, scorer, inputs, packed)
    passes = Passes(model, spec, events, inputs.largest_row, packed=packed)
    trainer = Trainer(wrapped, objective, passes, inputs, checkpoints=checkpoints, events=events, ranks=ranks)
    with _as_training(wrapped, scorer, spec, packed):
        trainer.resume()
        preflight(wrapped, trainer, inputs, events, job_dir=job_dir, precision=precision.name)
        stop = trainer.run(stopped)
    if stop is not None:
        events.write(stop, step=trainer.progress.step)
        return
    _choose_best(trainer, wrapped, checkpoints, events)
    adapter = job_dir / "adapter"
    # By every rank: each may hold a part of the weights.
    if ranks.is_main:
        _save(wrapped, adapter)
    if proved_apart(spec, model.base_weights):
        scorer = scorer_instead(scorer, spec, wrapped)
    proof = scorer.logits(inputs.probe)
    if ranks.is_main and proof:
        write_logits(job_dir / "probe.adapter.npz", proof)
    ranks.barrier()
    events.write(
        "finished",
        steps=trainer.progress.step,
        trained_tokens=trainer.progress.trained_tokens,
        seconds=time.perf_counter() - began,
        adapter=str(adapter),
    )


def _load(inputs: Inputs, device: torch.device, dtype: torch.dtype, events: EventWriter) -> Any:
    """The base to train, proved to be the one that is served."""
    spec = inputs.spec
    weights = checked_base_weights(spec)
    apart = proved_apart(spec, weights)
    if apart:  # on a model that is gone before the one that trains is there
        _prove(blocks_scorer(spec, device, dtype), inputs, events)
    model = load_base(Path(spec.base), device, dtype, weights)
    check_vocabulary(inputs, model.get_input_embeddings().num_embeddings)
    if not apart:
        _prove(Scorer(model, device, autocast=False), inputs, events)
    return model


@contextmanager
def _as_training(wrapped: Any, scorer: Scorer, spec: JobSpec, packed: bool) -> Iterator[None]:
    """Inside, the model computes as training has it; outside, as proofs need it: plainly and exactly."""
    with ExitStack() as stack:
        stack.enter_context(fast_products(scorer.device, tf32=spec.tf32))
        stack.enter_context(scorer.noisy(spec.neftune_noise_alpha))
        # A GPU has bfloat16 weights already, and weights that are split over processes exist in parts only.
        narrow = scorer.autocast and scorer.device.type == "cpu" and spec.sharding == "none"
        stack.enter_context(fused(wrapped, narrow=narrow))
        if packed:
            stack.enter_context(packed_attention(scorer.model))
        yield


def _choose_best(trainer: Trainer, wrapped: Any, checkpoints: Checkpoints, events: EventWriter) -> None:
    """The adapter as `load_best` wants it, or a warning that an earlier one was better."""
    best = trainer.progress.best_step
    if trainer.spec.load_best and best is not None:
        load_lora(wrapped, checkpoints.path(best))
    elif warning := overfitting_warning(trainer.progress):
        events.write("warning", message=warning)


def _packs(model: Any, inputs: Inputs, events: EventWriter) -> bool:
    """Whether rows packed into one sequence stay apart on this base: tried on the longest ones."""
    examples = [example for item in inputs.train.examples for example in item.sequences]
    chosen = sorted(examples, key=lambda example: len(example.tokens))[-PACKING_PROBE_ROWS:]
    if packs(model, [example.tokens[:PACKING_PROBE_TOKENS] for example in chosen]):
        return True
    events.write(
        "warning",
        message=f"`packing` is off: {model.config.model_type} carries a state from token to token, which "
        "would leak from one row into the next; rows are padded instead",
    )
    return False


def _objective(wrapped: Any, scorer: Scorer, inputs: Inputs, packed: bool) -> Objective:
    spec = inputs.spec
    if spec.method == "dpo":
        pairs = len(inputs.train.examples) + len(inputs.valid.examples)
        return DirectPreference(wrapped, scorer, spec, pairs, packed=packed)
    return Supervised(scorer, packed=packed, smoothing=spec.label_smoothing)


def _report_start(
    inputs: Inputs, device: torch.device, precision: Precision, checkpoints: Checkpoints, events: EventWriter
) -> None:
    spec, train, valid = inputs.spec, inputs.train, inputs.valid
    events.write(
        "started",
        pid=os.getpid(),
        resumed_from_step=checkpoints.newest_step(),
        steps=steps_in_job(spec, len(train.examples)),
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
    max_kl = base_kl_limit(inputs.spec, scorer.model)
    events.write(
        "base_checked", mean_kl=parity.mean_kl, max_abs_diff=parity.max_abs_diff, tokens=parity.tokens
    )
    if parity.mean_kl > max_kl:
        raise BaseMismatch(
            f"the base loaded for training is not the one that is served: mean KL {parity.mean_kl:.2e} per "
            f"token over {parity.tokens} tokens, at most {max_kl:.2e} is allowed. "
            "Train from the GGUF itself, or from the very Hugging Face directory that it was made from."
        )


def _save(wrapped: Any, adapter: Path) -> None:
    """The final PEFT directory, in place of what an earlier end may have left."""
    with whole_directory(adapter) as directory:
        save_lora(wrapped, directory)
