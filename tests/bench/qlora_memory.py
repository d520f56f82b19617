"""What training on packed blocks takes: measured on a model of a few layers, computed for one of 7 billion.

The computed figure runs the very code of a training step on torch's `meta` device, where tensors have sizes
but no numbers, and adds up what is alive. The same sum over a real step on the CPU, in the same run, shows
how far it can be trusted. Run as a script it makes one step in a process of its own and prints what it took.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.bench.figures import Figure
from tests.bench.options import Options
from tests.tiny.speed_model import BLOCKS, SEVEN_BILLION, Shape, speed_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llamaleon_trainer import losses, memory
from llamaleon_trainer.base.load import load_base
from llamaleon_trainer.base.packed import PackedEmbedding, PackedLinear
from llamaleon_trainer.job import JobSpec, LoraSettings
from llamaleon_trainer.lora import add_lora
from llamaleon_trainer.scoring import Scorer
from llamaleon_trainer.shape import MODULES

GIB, MIB = 2**30, 2**20
TOKENS = 1024
FEW_LAYERS = replace(SEVEN_BILLION, layers=2, vocabulary=8192)
CAUSAL = {"full_attention": None}  # what transformers makes of it; deciding that needs numbers
GGUF_NAMES = {**MODULES, "lm_head": "token_embd"}  # of one kind with it


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Bytes of all tensors that operations made inside and that are alive; the most there ever were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.note(value)
        return result

    def note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def step(model: Any, spec: JobSpec, tokens: int) -> dict[str, float]:
    """Two optimizer steps of one row with activations recomputed, as the trainer makes them; bytes."""
    device = model.get_input_embeddings().weight.device
    head = losses.Head(model.get_output_embeddings())
    allocations = Allocations()
    with torch.device(device):
        wrapped = add_lora(model, spec)
    for tensor in [*wrapped.parameters(), *wrapped.buffers()]:
        allocations.note(tensor.data)
    weights = allocations.live
    model.activation_checkpointing_enable()
    wrapped.train()
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, foreach=False)
    ids = torch.zeros(1, tokens, dtype=torch.long, device=device)
    with allocations:
        for _ in range(2):  # the second has the optimizer's state
            body = model.base_model(input_ids=ids, attention_mask=CAUSAL, use_cache=False)
            hidden = body.last_hidden_state
            del body
            found = losses.token_losses(head, hidden.flatten(0, 1), ids[0])
            loss: Any = found.losses.mean()
            del hidden, found
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return {"weights_bytes": weights, "peak_bytes": allocations.peak}


def spec_of(base: str) -> JobSpec:
    return JobSpec(job_id="memory", base=base, lora=LoraSettings(r=16))


def computed(shape: Shape, tokens: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, float]:
    """`step` of a model of this shape on the meta device, its linear layers and its embedding packed."""
    memory.CHUNK_ELEMENTS["meta"] = memory.CHUNK_ELEMENTS["cuda" if dtype is torch.bfloat16 else "cpu"]
    return step(_meta_model(shape, dtype), spec_of("none"), tokens)


def _meta_model(shape: Shape, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.requires_grad_(False)
    model.model.embed_tokens = PackedEmbedding(
        _blocks(shape, "token_embd", 0, shape.vocabulary, shape.hidden),
        shape.kind("token_embd", 0, shape.hidden),
        shape.hidden,
        dtype,
    )
    for path, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear:
            parent, _, name = path.rpartition(".")
            block = int(path.split(".")[2]) if ".layers." in path else 0
            packed = _blocks(shape, GGUF_NAMES[name], block, module.out_features, module.in_features)
            kind = shape.kind(GGUF_NAMES[name], block, module.in_features)
            layer = PackedLinear(packed, kind, module.in_features, module.bias)
            setattr(model.get_submodule(parent), name, layer)
    return model


def _blocks(shape: Shape, name: str, block: int, n_out: int, n_in: int) -> torch.Tensor:
    kind = BLOCKS[shape.kind(name, block, n_in)]
    return torch.empty(n_out, n_in // kind.elements * kind.bytes, dtype=torch.uint8, device="meta")


def measured(base: Path, weights: str, tokens: int) -> dict[str, float]:
    """`step` on the CPU in float32, in a process of its own; with its peak resident memory."""
    command = [sys.executable, "-m", "tests.bench.qlora_memory", str(base), weights, str(tokens)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(scratch: Path, options: Options) -> list[Figure]:
    few, tokens = (FEW_LAYERS, 256) if not options.quick else (replace(FEW_LAYERS, layers=1), 32)
    base = speed_model(scratch / "few.gguf", replace(few, quantization="Q4_K_M"))
    real = {weights: measured(base, weights, tokens) for weights in ("full", "nf4", "gguf")}
    again = computed(few, tokens, torch.float32)
    large = computed(SEVEN_BILLION, TOKENS)
    agreement = again["peak_bytes"] / real["gguf"]["peak_bytes"]
    ratio = real["gguf"]["peak_rss_bytes"] / real["full"]["peak_rss_bytes"]
    rss = ", ".join(f"{name} {found['peak_rss_bytes'] / MIB:.0f}" for name, found in real.items())
    return [
        Figure(
            f"peak memory of training {few.layers} layers of a 7 B shape on a CPU, {tokens} tokens, above "
            f"the idle process: {rss} MiB; packed blocks over full precision",
            f"{ratio:.2f}",
            None,
            {f"{name}_{key}": value for name, found in real.items() for key, value in found.items()},
        ),
        Figure(
            f"7 B shape in Q4_K_M on its own blocks, {TOKENS} tokens, batch 1, r 16, bfloat16: computed, "
            f"seen on no GPU; the same sum for the layers above is {agreement:.0%} of a real step's",
            f"{large['peak_bytes'] / GIB:.2f} GiB ({large['weights_bytes'] / GIB:.2f} of it weights)",
            "under 8 GB",
            {**large, "agreement": agreement},
        ),
    ]


def _script(base: str, weights: str, tokens: str) -> None:
    torch.set_num_threads(1)
    import_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    model = load_base(Path(base), torch.device("cpu"), torch.float32, weights)
    Scorer(model, torch.device("cpu"), autocast=False)  # as a job does, before its adapter
    loaded = time.perf_counter()
    found = step(model, spec_of(base), int(tokens))
    found["load_seconds"] = loaded - start
    found["seconds"] = (time.perf_counter() - loaded) / 2
    found["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - import_peak
    print(json.dumps(found))


if __name__ == "__main__":
    _script(*sys.argv[1:])
