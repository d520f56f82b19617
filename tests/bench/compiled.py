"""Would torch.compile pay? What a step spends beside its matrix products, compiled and not, in one process.

Compiled are a llama's norms, its rotary positions and its gate: each once, for rows of any length.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tests.bench.figures import Figure
from tests.bench.options import Options
from tests.bench.train_model import QUICK, TWENTY_MILLION, write_model

from llamaleon_trainer.base.load import load_base
from llamaleon_trainer.fused import fused
from llamaleon_trainer.job import JobSpec, LoraSettings
from llamaleon_trainer.lora import add_lora
from llamaleon_trainer.losses import Head, token_losses

ROWS, LENGTHS, ROUNDS = 4, (256, 192, 240, 256), 11


def measure(scratch: Path, options: Options) -> list[Figure]:
    shape = QUICK if options.quick else TWENTY_MILLION
    base, _ = write_model(scratch / "model", shape)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "inductor")  # as on a machine's first job
    title = f"{shape.parameters / 1e6:.0f} M parameters"
    return [_figure(base, title, narrow=narrow) for narrow in (False, True)]


def _figure(base: Path, title: str, *, narrow: bool) -> Figure:
    cpu = torch.device("cpu")
    model = load_base(base, cpu, torch.float32, "full")
    wrapped = add_lora(model, JobSpec(job_id="compiled", base=str(base), lora=LoraSettings(r=16)))
    wrapped.train()
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 256, (ROWS, length), generator=draw) for length in LENGTHS]

    def steps() -> tuple[float, float]:
        """(seconds, the mean loss) of all batches, forwards and backwards."""
        start, total = time.perf_counter(), 0.0
        for ids in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
                head = Head(model.get_output_embeddings())
                loss: Any = token_losses(head, hidden.flatten(0, 1), ids.flatten()).losses.mean()
            loss.backward()
            total += float(loss.detach())
        return time.perf_counter() - start, total / len(batches)

    with fused(wrapped, narrow=narrow):
        plain_loss = [steps() for _ in range(2)][1][1]
        with _compiled() as forwards:
            first_s, loss = steps()
            steps()
        ratios = []
        for _ in range(ROUNDS):
            plain_s, _ = steps()
            with _compiled(forwards):
                ratios.append(plain_s / steps()[0])
    ratio, precision = statistics.median(ratios), "bfloat16" if narrow else "float32"
    return Figure(
        f"torch.compile of norms, rotary positions and gate, steps without it over steps with it, {title}, "
        f"{precision}; the first {len(LENGTHS)} steps took {first_s:.0f} s, their loss moved by "
        f"{abs(loss - plain_loss):.0e}",
        f"{ratio:.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f})",
        None,
        {"ratio": ratio, "least": min(ratios), "most": max(ratios), "first_s": first_s},
    )


@contextmanager
def _compiled(forwards: list[Any] | None = None) -> Iterator[list[Any]]:
    """Inside, a llama computes with compiled functions, new ones if none are given."""
    from transformers.models.llama import modeling_llama as llama

    plain = [llama.LlamaRMSNorm.forward, llama.apply_rotary_pos_emb, llama.LlamaMLP.forward]
    made = forwards or [*(torch.compile(one, dynamic=True) for one in plain[:2]), _gated()]
    _put(llama, made)
    try:
        yield made
    finally:
        _put(llama, plain)


def _put(llama: Any, functions: list[Any]) -> None:
    llama.LlamaRMSNorm.forward, llama.apply_rotary_pos_emb, llama.LlamaMLP.forward = functions


def _gated() -> Any:
    gate = torch.compile(lambda a, b: torch.nn.functional.silu(a) * b, dynamic=True)
    return lambda mlp, x: mlp.down_proj(gate(mlp.gate_proj(x), mlp.up_proj(x)))
