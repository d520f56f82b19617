"""From engine options to a model and a context that fit this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import read_header
from llamaleon_server.binding import library
from llamaleon_server.binding.context import Context, ContextOptions
from llamaleon_server.binding.cores import available_cores
from llamaleon_server.binding.errors import LoadError
from llamaleon_server.binding.fitting import (
    KV_TYPES,
    LEAST_CONTEXT_TOKENS,
    Cache,
    cache,
    gpu_layers,
    kv_token_bytes,
    layer_tries,
    sizes_of,
)
from llamaleon_server.binding.mixer import Mixer
from llamaleon_server.binding.mixing import Mixing
from llamaleon_server.binding.model import Model
from llamaleon_server.binding.options import AS_TRAINED, UNSPLIT, Rope, Split

CACHED_PREFIXES = 32  # sequence numbers beside the running ones; they cost no memory of their own...
CACHED_STATES = 4  # ...but a recurrent model keeps a whole state for each,
RUNNING_STATES = 8  # of the running ones too
MAX_RUNNING_SEQUENCES = 128  # llama.cpp knows 256 numbers
CELL_TOKENS = 256  # llama.cpp rounds the KV cache up to this
PROCESS_BYTES = 256 << 20  # of memory beside weights and cache: Python, compute buffers
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
    kv_type_k: str | None = None  # None: `kv_type`
    kv_type_v: str | None = None
    rope: Rope = AS_TRAINED
    split: Split = UNSPLIT
    memory_bytes: int | None = None  # for all that the model takes; None: what is free
    least_context_tokens: int = 0  # if that is more, as far as memory and the model allow it

    @property
    def kv_types(self) -> tuple[str, str]:
        """Of keys and values."""
        return self.kv_type_k or self.kv_type, self.kv_type_v or self.kv_type


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """`context_tokens` is the most that one sequence may use, `output_rows` the most logits of one pass.

    `sequences` are the numbers there are: `running_sequences` for what runs, the rest for prefixes.
    `mixing_off` says why adapters cannot share a pass here; None if they can. `automatic`: for every
    option that was left to us why we chose as we did, for people.
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
    kv_types: tuple[str, str] = ("f16", "f16")
    kv_bytes: int = 0
    automatic: dict[str, str] = field(default_factory=dict)


def open_model(options: LoadOptions, on_progress: Callable[[float], bool] | None = None) -> Loaded:
    """Load a model with as many layers on the GPUs as fit. Raises: LoadError with the reason."""
    devices = options.split.used(library.gpu_devices()) if options.gpu_layers != 0 else []
    mixing = Mixing.start(options.mixing, devices, options.split)
    _check(options)
    name = ", ".join(device.description for device in devices) or "CPU"
    tries, why = _layer_counts(options, devices)
    for position, layers in enumerate(tries):
        try:
            loaded = _open(options, layers, name if layers else "CPU", on_progress, mixing)
        except LoadError as error:
            if position == len(tries) - 1:
                raise
            sys.stderr.write(f"{error} Trying fewer GPU layers than {layers}.\n")
            continue
        if why:
            loaded.automatic["gpu_layers"] = why
        return loaded
    raise LoadError(f"{options.path}: there is nothing to try")  # `tries` is never empty


def _check(options: LoadOptions) -> None:
    for kind in options.kv_types:
        if kind not in KV_TYPES:
            raise LoadError(f"kv_type {kind!r} is not one of {', '.join(KV_TYPES)}.")
    if options.flash_attention is False and options.kv_types[1] not in {"f32", "f16", "bf16"}:
        raise LoadError(f"kv_type_v {options.kv_types[1]} needs flash attention, which is switched off.")
    if not 1 <= options.running_sequences <= MAX_RUNNING_SEQUENCES:
        raise LoadError(f"parallel_sequences must lie between 1 and {MAX_RUNNING_SEQUENCES}.")
    if options.batch_tokens < 1 or (options.context_tokens is not None and options.context_tokens < 1):
        raise LoadError("batch_tokens and context_tokens must be at least 1.")


def _layer_counts(options: LoadOptions, devices: list[library.Device]) -> tuple[list[int], str | None]:
    """How many layers to try on the GPUs, best first, and why if we choose."""
    if not devices:
        return [0], None
    if options.gpu_layers is not None:
        return [options.gpu_layers], None
    try:
        header = read_header(options.path)
    except ConvertError as error:
        raise LoadError(str(error)) from error
    sizes = sizes_of(header)
    free = [device.free_bytes for device in devices]
    tokens = options.context_tokens or options.kv_tokens or LEAST_CONTEXT_TOKENS
    fitting = gpu_layers(sizes, tokens * kv_token_bytes(header, *options.kv_types), free)
    why = (
        f"{min(fitting, len(sizes.layers) + 1)} of {len(sizes.layers) + 1} layers fit into "
        f"{' + '.join(f'{one / 1e9:.1f}' for one in free)} GB of free GPU memory"
    )
    return layer_tries(fitting, len(sizes.layers)), why


def _open(
    options: LoadOptions,
    layers: int,
    device: str,
    on_progress: Callable[[float], bool] | None,
    mixing: Mixing,
) -> Loaded:
    model = Model(
        options.path,
        gpu_layers=layers,
        use_mmap=options.use_mmap,
        rope=options.rope,
        split=options.split,
        on_progress=on_progress,
    )
    try:
        chosen = _cache(model, options)
        longest = chosen.context_tokens
        batch_tokens = max(options.batch_tokens, options.running_sequences)
        running, cached = options.running_sequences, CACHED_PREFIXES
        if model.keeps_state:
            running, cached = min(running, RUNNING_STATES), CACHED_STATES
        sequences = running + cached
        rows = min(OUTPUT_BYTES // (4 * model.vocabulary.size), batch_tokens)
        wanted = ContextOptions(
            kv_tokens=_rounded(chosen.kv_tokens),
            sequences=sequences,
            batch_tokens=batch_tokens,
            outputs=max(rows, sequences),  # llama.cpp asserts that every sequence may have one
            threads=options.threads or available_cores(),
            flash_attention=options.flash_attention,
            kv_type=options.kv_types[0],
            kv_type_v=options.kv_types[1],
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
        kv_types=options.kv_types,
        kv_bytes=context.kv_tokens * kv_token_bytes(model.header, *options.kv_types),
        automatic={"context_tokens": chosen.why} if options.context_tokens is None else {},
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


def _cache(model: Model, options: LoadOptions) -> Cache:
    return cache(
        train_tokens=options.rope.stretched(model.train_context_tokens),
        token_bytes=kv_token_bytes(model.header, *options.kv_types),
        free_bytes=free_bytes(model, options),
        running=options.running_sequences,
        context_tokens=options.context_tokens,
        kv_tokens=options.kv_tokens,
        least_tokens=options.least_context_tokens,
    )


def free_bytes(model: Model, options: LoadOptions) -> int:
    """Memory that the cache may share, now that the weights are where they belong."""
    if model.gpu_layers:
        spare = sum(device.free_bytes for device in options.split.used(library.gpu_devices()))
        return spare if options.memory_bytes is None else min(spare, options.memory_bytes - model.bytes)
    free: int = psutil.virtual_memory().available
    if options.use_mmap:  # counted as free, because the kernel could read these pages again
        free -= model.bytes
    if options.memory_bytes is not None:
        free = min(free, options.memory_bytes - model.bytes - PROCESS_BYTES)
    return free


def _rounded(tokens: int) -> int:
    return -(-tokens // CELL_TOKENS) * CELL_TOKENS
