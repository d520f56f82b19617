"""What a model will take in memory, before it is loaded: its weights, its cache, and what computing needs."""

from __future__ import annotations

import logging
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import psutil
from msgspec import Struct

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import read_header
from llamaleon_server.binding.fitting import LEAST_CONTEXT_TOKENS, kv_token_bytes, state_bytes
from llamaleon_server.registry.records import Base
from llamaleon_server.settings import EngineSettings

log = logging.getLogger(__name__)

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits")
SMI_TIMEOUT_S = 10.0
PROCESS_BYTES = 200 << 20  # Python, its libraries, the compiled callbacks, the self-test of mixing
STATES = 12  # recurrent states that an engine keeps; see `binding.loading`
MASK_BYTES = 6  # of the attention mask for each token of a pass and cell of the cache: 32 and 16 bits
OUTPUT_BYTES = 32 << 20  # most of the logits of a pass


class Need(Struct, frozen=True, kw_only=True):
    """Bytes. `cache` is the least that the model can run with, unless its size is set."""

    weights: int
    cache: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.compute


def need_of(base: Base, options: EngineSettings) -> Need:
    """Reads the GGUF's header, which takes up to 50 ms: call it in a thread."""
    try:
        stat = base.path.stat()
        shape = _shape(base.path, stat.st_mtime_ns, *options.kv_types)
    except (OSError, ConvertError):  # the engine will say what is wrong with it
        return Need(weights=base.bytes, cache=0, compute=PROCESS_BYTES)
    least = min(options.least_context_tokens, base.n_ctx_train)  # more is not granted
    asked = max(options.context_tokens or 0, least, options.kv_tokens or 0)
    tokens = asked or min(base.n_ctx_train or LEAST_CONTEXT_TOKENS, LEAST_CONTEXT_TOKENS)
    batch = max(options.batch_tokens, options.parallel_sequences)
    compute = batch * (shape.row + MASK_BYTES * tokens) + min(OUTPUT_BYTES, 4 * batch * shape.vocabulary)
    return Need(
        weights=base.bytes + _bytes(base.projector),
        cache=tokens * shape.token + STATES * shape.state,
        compute=PROCESS_BYTES + compute,
    )


def _bytes(path: Path | None) -> int:
    try:
        return 0 if path is None else path.stat().st_size
    except OSError:  # then it is not loaded
        return 0


class _Shape(Struct, frozen=True):
    """Bytes of a token in the cache, of a recurrent state, of a row of a pass; tokens there are."""

    token: int
    state: int
    row: int
    vocabulary: int


@lru_cache(maxsize=64)
def _shape(path: Path, _modified_ns: int, key_type: str, value_type: str) -> _Shape:
    header = read_header(path)
    sizes = [header.model_value(name) for name in ("embedding_length", "feed_forward_length")]
    width, hidden = (one if isinstance(one, int) else 0 for one in sizes)
    # The widest moment of a layer in 32 bits: its input, the residual, queries, keys and values, gate and up.
    row = 4 * (6 * width + 3 * (hidden or 4 * width))
    return _Shape(kv_token_bytes(header, key_type, value_type), state_bytes(header), row, header.vocab_size)


def resident_bytes(pid: int | None) -> int | None:
    """What a process holds in RAM; None if there is none."""
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it ended just now
        return None


def free_gpu_bytes() -> int | None:
    """Bytes free on the first GPU, the one that training takes; None where nobody can tell. Blocks."""
    if shutil.which(NVIDIA_SMI[0]) is None:
        return None
    try:
        done = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=True)
        return int(done.stdout.split()[0]) << 20
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        log.warning("%s does not say how much memory is free: %s", NVIDIA_SMI[0], error)
        return None
