"""Where and how precisely a job computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil
import torch

from .errors import BadJob
from .job import JobSpec


def choose_device(spec: JobSpec) -> torch.device:
    """Raises: BadJob when CUDA is asked for and not there."""
    available = torch.cuda.is_available()
    if spec.device == "cuda" and not available:
        raise BadJob("`device` is cuda, but torch sees no CUDA device; use auto or cpu")
    return torch.device("cuda" if spec.device != "cpu" and available else "cpu")


class Precision(NamedTuple):
    """`weights` of the frozen base, and whether training computes its matrix products in bfloat16.

    LoRA weights, norms and losses are float32 in every case.
    """

    weights: torch.dtype
    autocast: bool

    @property
    def name(self) -> str:
        return "bfloat16" if self.autocast else "float32"


def choose_precision(spec: JobSpec, device: torch.device) -> Precision:
    """On a CPU the base stays float32, so that proofs of parity are exact, and only products are narrowed.

    Automatically that is done where the processor multiplies bfloat16 itself: a nano step with 8 rows took
    0.22 s instead of 0.41 s on one core with AVX512-BF16; without, it would be slower than float32. A GPU
    before compute capability 8 (RTX 30) emulates it, too.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        narrow = spec.precision == "bfloat16" or (spec.precision == "auto" and native)
        return Precision(torch.bfloat16 if narrow else torch.float32, narrow)
    known = torch.cpu.get_capabilities()
    native = bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    return Precision(torch.float32, spec.precision == "bfloat16" or (spec.precision == "auto" and native))


@contextmanager
def fast_products(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Inside, a GPU may round the factors of float32 matrix products to 10 bits of mantissa (TF32)."""
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    if device.type == "cuda" and tf32:
        backend.fp32_precision = "tf32"
    try:
        yield
    finally:
        backend.fp32_precision = before


def memory_bytes(device: torch.device) -> int:
    """Peak allocation on the GPU, or what the process occupies now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def held_bytes(device: torch.device) -> int:
    """What is allocated on the GPU now, or what the process occupies."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else memory_bytes(device)


# Allocators without an exception type of their own: torch's on a CPU, and those beside torch's on a GPU. When
# that one has taken all memory, cuBLAS finds none for its workspace, nor CUDA for a kernel that it loads.
NO_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
