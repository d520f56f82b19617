"""From engine options to a model and a context that fit this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from llamaleon_server.binding import library
from llamaleon_server.binding.context import KV_TYPES, Context, ContextOptions
from llamaleon_server.binding.cores import available_cores
from llamaleon_server.binding.errors import LoadError
from llamaleon_server.binding.mixer import Mixer
from llamaleon_server.binding.mixing import Mixing
from llamaleon_server.binding.model import Model

DEFAULT_CONTEXT_TOKENS = 8192
KV_SHARE = 4  # the KV cache takes at most this part of the free memory, unless one sequence needs more
CACHED_PREFIXES = 32  # sequence numbers beside the running ones; they cost no memory of their own...
CACHED_STATES = 4  # ...but a recurrent model keeps a whole state for each,
RUNNING_STATES = 8  # of the running ones too
KV_CONTEXTS = 8  # full contexts that the KV cache holds, if memory allows
MAX_RUNNING_SEQUENCES = 128  # llama.cpp knows 256 numbers
CELL_TOKENS = 256  # llama.cpp rounds the KV cache up to this
GPU_RESERVE_BYTES = 1 << 30  # compute buffers and the driver's own
OUTPUT_BYTES = 32 << 20  # of logits per pass, so that a large vocabulary does not take 300 MB


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What the caller wants; None is automatic."""

    path: Path
    gpu_layers: int | None
    context_tokens: int | None
    kv_tokens: int | None
    running_sequences: int
    batch_tokens: int
    threads: int | None
    flash_attention: bool | None
    kv_type: str
    use_mmap: bool
    mixing: bool = True


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """`context_tokens` is the most that one sequence may use, `output_rows` the most logits of one pass.

    `sequences` are the numbers there are: `running_sequences` for what runs, the rest for prefixes.
    `mixing_off` says why adapters cannot share a pass here; None if they can.
    """

    model: Model
    context: Context
    context_tokens: int
    running_sequences: int
    sequences: int
    batch_tokens: int
    output_rows: int
    threads: int
    device: str
    mixer: Mixer | None
    mixing_off: str | None


def open_model(options: LoadOptions, on_progress: Callable[[float], bool] | None = None) -> Loaded:
    """Load a model with as many layers on the GPU as fit. Raises: LoadError with the reason."""
    mixing = Mixing.start(options.mixing, library.gpu_devices() if options.gpu_layers != 0 else [])
    if options.kv_type not in KV_TYPES:
        raise LoadError(f"kv_type {options.kv_type!r} is not one of {', '.join(KV_TYPES)}.")
    if not 1 <= options.running_sequences <= MAX_RUNNING_SEQUENCES:
        raise LoadError(f"parallel_sequences must lie between 1 and {MAX_RUNNING_SEQUENCES}.")
    if options.batch_tokens < 1 or (options.context_tokens is not None and options.context_tokens < 1):
        raise LoadError("batch_tokens and context_tokens must be at least 1.")
    devices = library.gpu_devices()
    name = devices[0].description if devices else "CPU"
    tries = _layer_counts(options, devices)
    for position, layers in enumerate(tries):
        try:
            return _open(options, layers, name if layers else "CPU", on_progress, mixing)
        except LoadError as error:
            if position == len(tries) - 1:
                raise
            sys.stderr.write(f"{error} Trying fewer GPU layers than {layers}.\n")
    raise LoadError(f"{options.path}: there is nothing to try")  # `tries` is never empty


def _layer_counts(options: LoadOptions, devices: list[library.Device]) -> list[int]:
    """How many layers to try on the GPU, best first: all, or those that should fit, then fewer."""
    if not devices:
        return [0]
    if options.gpu_layers is not None:
        return [options.gpu_layers]
    free = sum(device.free_bytes for device in devices)
    need = options.path.stat().st_size + GPU_RESERVE_BYTES if options.path.exists() else 0
    if need <= free:
        return [-1, 32, 16, 8, 4, 0]
    # Layers of one model are nearly alike; a few more than fit cost one failed try, not a crash.
    share = max(0.0, (free - GPU_RESERVE_BYTES) / need)
    counts = [int(share * 100), int(share * 50), int(share * 25), 0]
    return sorted(set(counts), reverse=True)


def _open(
    options: LoadOptions,
    layers: int,
    device: str,
    on_progress: Callable[[float], bool] | None,
    mixing: Mixing,
) -> Loaded:
    model = Model(options.path, gpu_layers=layers, use_mmap=options.use_mmap, on_progress=on_progress)
    try:
        longest = options.context_tokens or min(model.train_context_tokens, DEFAULT_CONTEXT_TOKENS)
        batch_tokens = max(options.batch_tokens, options.running_sequences)
        running, cached = options.running_sequences, CACHED_PREFIXES
        if model.keeps_state:
            running, cached = min(running, RUNNING_STATES), CACHED_STATES
        sequences = running + cached
        rows = min(OUTPUT_BYTES // (4 * model.vocabulary.size), batch_tokens)
        wanted = ContextOptions(
            kv_tokens=_kv_tokens(model, options, longest),
            sequences=sequences,
            batch_tokens=batch_tokens,
            outputs=max(rows, sequences),  # llama.cpp asserts that every sequence may have one
            threads=options.threads or available_cores(),
            flash_attention=options.flash_attention,
            kv_type=options.kv_type,
            mixer=mixing.mixer(),
        )
        context = _context(model, wanted, longest)
    except LoadError:
        model.close()
        raise
    return Loaded(
        model=model,
        context=context,
        context_tokens=min(longest, context.kv_tokens),
        running_sequences=running,
        sequences=wanted.sequences,
        batch_tokens=batch_tokens,
        output_rows=min(wanted.outputs, batch_tokens),
        threads=wanted.threads,
        device=device,
        mixer=wanted.mixer,
        mixing_off=mixing.off,
    )


def _context(model: Model, wanted: ContextOptions, longest: int) -> Context:
    """A context with the cache wanted, or failing that with one that a single sequence needs."""
    try:
        return Context(model, wanted)
    except LoadError:
        smallest = _rounded(longest)
        if wanted.kv_tokens <= smallest:
            raise
        return Context(model, replace(wanted, kv_tokens=smallest))


def _kv_tokens(model: Model, options: LoadOptions, longest: int) -> int:
    """Size of the shared cache: what was asked for, or some full contexts if the free memory holds them."""
    if options.kv_tokens is not None:
        return _rounded(max(longest, options.kv_tokens))
    free = psutil.virtual_memory().available
    if model.gpu_layers:
        free = sum(device.free_bytes for device in library.gpu_devices())
    fitting = free // KV_SHARE // model.kv_bytes_per_token(KV_TYPES[options.kv_type][1])
    wanted = longest * min(options.running_sequences, KV_CONTEXTS)
    return _rounded(max(longest, min(wanted, fitting)))


def _rounded(tokens: int) -> int:
    return -(-tokens // CELL_TOKENS) * CELL_TOKENS
