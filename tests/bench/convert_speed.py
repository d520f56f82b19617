"""How fast adapters are converted: `python -m tests.bench.convert_speed`.

Real sizes, random weights: the base GGUF has a 150 k-token vocabulary and every tensor of its model, but its
weights are a hole in a sparse file, since only the header and the first 4 KiB of each tensor are read.

With $LLAMALEON_BENCH_CONVERT_LORA, the path of llama.cpp's convert_lora_to_gguf.py, that script converts the
same adapters, in turn with ours; it is given the configuration of the base, which it wants instead of a GGUF.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tests.bench.figures import Figure

from llamaleon_convert import convert
from llamaleon_convert.header import read_header

UPSTREAM = "LLAMALEON_BENCH_CONVERT_LORA"
RUNS = 5
GOAL = 10  # times faster than upstream's, of the 7 B adapter
VOCABULARY, MERGES = 151_936, 151_387  # Qwen 2.5's


@dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    inner: int
    key_value: int
    blocks: int
    rank: int


SHAPES = (
    Shape("0.5B, rank 10", 896, 4864, 128, 24, 10),  # 20 MB in F32
    Shape("7B, rank 16", 3584, 18944, 512, 28, 16),
)


def linears(shape: Shape) -> dict[str, tuple[str, int, int]]:
    """GGUF name -> (PEFT module, n_in, n_out)."""
    hidden, inner, kv = shape.hidden, shape.inner, shape.key_value
    return {
        "attn_q": ("self_attn.q_proj", hidden, hidden),
        "attn_k": ("self_attn.k_proj", hidden, kv),
        "attn_v": ("self_attn.v_proj", hidden, kv),
        "attn_output": ("self_attn.o_proj", hidden, hidden),
        "ffn_gate": ("mlp.gate_proj", hidden, inner),
        "ffn_up": ("mlp.up_proj", hidden, inner),
        "ffn_down": ("mlp.down_proj", inner, hidden),
    }


def write_base(path: Path, shape: Shape) -> None:
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(shape.blocks)
    writer.add_embedding_length(shape.hidden)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{i}" for i in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges([f"to ken{i}" for i in range(MERGES)])
    half, bytes_of = np.dtype(np.float16), 0
    shapes = {"token_embd.weight": (VOCABULARY, shape.hidden), "output_norm.weight": (shape.hidden,)}
    tensors: dict[str, tuple[int, ...]] = dict(shapes)
    for block in range(shape.blocks):
        for name, (_, n_in, n_out) in linears(shape).items():
            tensors[f"blk.{block}.{name}.weight"] = (n_out, n_in)
    for name, extents in tensors.items():
        nbytes = int(np.prod(extents)) * half.itemsize
        writer.add_tensor_info(name, extents, half, nbytes)
        bytes_of += -(-nbytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 32 + bytes_of)


def write_peft(directory: Path, shape: Shape) -> int:
    directory.mkdir()
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    for block in range(shape.blocks):
        for module, n_in, n_out in linears(shape).values():
            prefix = f"base_model.model.model.layers.{block}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = rng.standard_normal((shape.rank, n_in), dtype=np.float32)
            tensors[f"{prefix}.lora_B.weight"] = rng.standard_normal((n_out, shape.rank), dtype=np.float32)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = f'{{"peft_type": "LORA", "r": {shape.rank}, "lora_alpha": 16}}'
    (directory / "adapter_config.json").write_text(config)
    return (directory / "adapter_model.safetensors").stat().st_size


MEASURED = """
import re, sys, time
from pathlib import Path
from llamaleon_convert.__main__ import main
main(sys.argv[1:])
peak_kib = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(time.process_time(), peak_kib)
"""


def measure(scratch: Path) -> list[Figure]:
    return [_figure(scratch / str(number), shape) for number, shape in enumerate(SHAPES)]


def _figure(directory: Path, shape: Shape) -> Figure:
    directory.mkdir()
    base, peft_dir, out = directory / "base.gguf", directory / "peft", directory / "out.gguf"
    write_base(base, shape)
    adapter_mb = write_peft(peft_dir, shape) / 1e6
    header_s = _median_s(lambda: read_header(base))
    script = os.environ.get(UPSTREAM)
    upstream = _Upstream(Path(script), directory, shape) if script else None
    ours, theirs = [], []
    for _ in range(RUNS):  # in turns, so that a slow minute of the machine hits both
        ours.append(_seconds(lambda: _run(peft_dir, base, out), out))
        if upstream:
            theirs.append(_seconds(upstream.run, upstream.out))
    whole_s = statistics.median(ours)
    out.unlink()
    cpu_s, peak_mib = _run(peft_dir, base, out)
    inside_s = _median_s(lambda: convert(peft_dir, base, out), out)  # as in a running server
    copy = directory / "copy"
    copy_s = _median_s(lambda: shutil.copyfile(out, copy), copy)  # what no converter can do without
    measured = (
        f"{whole_s:.2f} s ({cpu_s:.2f} s of CPU), peak {peak_mib:.0f} MiB, base header {header_s:.2f} s"
        f", in a running process {inside_s:.2f} s, a plain copy of the file {copy_s:.2f} s"
    )
    raw = {"whole_s": whole_s, "cpu_s": cpu_s, "peak_mib": peak_mib, "header_s": header_s, "mb": adapter_mb}
    raw |= {"inside_s": inside_s, "copy_s": copy_s}
    goal = "under 1 s" if adapter_mb < 30 else None
    if upstream:
        upstream.check(out)
        upstream_s, upstream_cpu_s = statistics.median(theirs), upstream.cpu_s / (2 * RUNS)
        ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
        times, cpu_times = statistics.median(ratios), upstream_cpu_s / cpu_s
        raw |= {"upstream_s": upstream_s, "upstream_cpu_s": upstream_cpu_s, "times_faster": times}
        measured += (
            f"; llama.cpp's script {upstream_s:.2f} s ({upstream_cpu_s:.2f} s of CPU), "
            f"{times:.1f} times as long (rounds {min(ratios):.1f} to {max(ratios):.1f}; "
            f"{cpu_times:.1f} times the CPU)"
        )
        goal = goal or f"at least {GOAL} times faster"
    what = f"PEFT adapter of {adapter_mb:.0f} MB ({shape.name}) to GGUF, whole command"
    return Figure(what, measured, goal, raw)


class _Upstream:
    """llama.cpp's own converter, for the same adapter."""

    def __init__(self, script: Path, directory: Path, shape: Shape) -> None:
        base, self.out, self.cpu_s = directory / "hf", directory / "upstream.gguf", 0.0
        base.mkdir()
        (base / "config.json").write_text(json.dumps(_config(shape)))
        self._command = [sys.executable, str(script), str(directory / "peft")]
        self._command += ["--base", str(base), "--outfile", str(self.out)]

    def run(self) -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(self._command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu_s += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def check(self, out: Path) -> None:
        """Raises: RuntimeError if `out`, which we wrote, holds other tensors."""
        if read_header(out).tensors.keys() != read_header(self.out).tensors.keys():
            raise RuntimeError("the two converters wrote different tensors")


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.hidden // 64,
        "num_key_value_heads": shape.key_value // 64,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
    }


def _run(peft_dir: Path, base: Path, out: Path) -> tuple[float, float]:
    """(seconds of CPU, peak MiB) of one conversion in a process of its own."""
    command = [sys.executable, "-c", MEASURED, str(peft_dir), "--base", str(base), "-o", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cpu_s, peak_kib = done.stdout.splitlines()[-1].split()
    return float(cpu_s), float(peak_kib) / 1024


def _median_s(action: Callable[[], object], written: Path | None = None) -> float:
    return statistics.median(_seconds(action, written) for _ in range(RUNS))


def _seconds(action: Callable[[], object], written: Path | None = None) -> float:
    """Of the second of two runs: the first time a virtual machine touches memory its host has to find it.

    A file that is `written` is new each time: to free an older one takes a while too.
    """
    for _ in range(2):
        if written is not None:
            written.unlink(missing_ok=True)
        begin = time.perf_counter()
        action()
    return time.perf_counter() - begin


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for figure in measure(Path(name)):
            print(f"{figure.what}: {figure.measured}")
