"""A GGUF LoRA back to the PEFT directory that it could have come from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from safetensors.numpy import save

from llamaleon_convert.architectures import ARCHITECTURES, EMBEDDING, ROUTER, Architecture, Place, locate
from llamaleon_convert.atomic import atomic
from llamaleon_convert.check import check_file
from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.floats import Weights
from llamaleon_convert.header import Header, TensorInfo, read_header
from llamaleon_convert.order import column_order, module_rows, row_order
from llamaleon_convert.plan import require_supported
from llamaleon_convert.tensors import read_rows

GATE_UP, DOWN = "gate_up_proj", "down_proj"


class Module(Struct, frozen=True):
    """One module or parameter of the transformers model, with the tensors of the LoRA that it becomes."""

    name: str  # as PEFT's patterns call it
    key: str  # in the safetensors file, without `base_model.model.`
    suffix: str  # the name inside a layer: what PEFT targets when every layer has it
    places: tuple[Place, ...]
    is_parameter: bool = False


class Made(Struct, frozen=True):
    """The arrays of one module as PEFT keeps them. `factor`: what B must be multiplied by at that rank."""

    module: Module
    a: Weights
    b: Weights
    rank: int


def unconvert_file(
    lora: Path, base: Header, directory: Path, *, base_name: str | None, root: str | None
) -> list[str]:
    """See `llamaleon_convert.to_peft`."""
    require_supported(base)
    manifest, header = check_file(lora, base), read_header(lora)
    architecture = ARCHITECTURES[base.architecture]
    if root is not None and root not in architecture.roots:
        raise ConvertError(f"root {root!r}: a {base.architecture} model has {', '.join(architecture.roots)}.")
    modules = list(_modules(base, header, architecture, root or architecture.roots[0]))
    if lost := set(manifest.target_tensors) - {place.tensor for one in modules for place in one.places}:
        raise Refused(f"{lora}: transformers has no module that is {min(lost)!r} of {base.architecture}.")
    present = [_made(base, header, module, manifest.alpha) for module in modules]
    config = _config(base, present, alpha=manifest.alpha, base_name=base_name)
    arrays = {key: value for made in present for key, value in _arrays(made)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConvertError(f"{directory}: cannot be written: {error.strerror or error}") from error
    with atomic(directory / "adapter_model.safetensors") as temporary:
        temporary.write_bytes(save(arrays, metadata={"format": "pt"}))  # whose errors are the system's
    with atomic(directory / "adapter_config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return [made.module.name for made in present]


def _candidates(architecture: Architecture, blocks: int, root: str) -> Iterator[tuple[str, str]]:
    """(name, name inside a layer) of every module that the architecture may have."""
    inner = list(architecture.layers)
    if architecture.experts is not None:
        inner += [f"{architecture.experts.module}.{part}" for part in (GATE_UP, DOWN)]
    for block in range(blocks):
        for suffix in inner:
            yield f"{root}.{architecture.layer_list}.{block}.{suffix}", suffix
    yield f"{root}.{architecture.embedding}", architecture.embedding
    yield "lm_head", "lm_head"


def _modules(base: Header, lora: Header, architecture: Architecture, root: str) -> Iterator[Module]:
    taken: set[str] = set()
    for name, suffix in _candidates(architecture, base.block_count, root):
        places = tuple(locate(architecture, name, base.tensors))
        tensors = {place.tensor for place in places}
        if tensors & taken or not any(f"{tensor}.lora_a" in lora.tensors for tensor in tensors):
            continue  # two names of one tensor: the first is that of today's transformers
        taken |= tensors
        if places[0].stacked:
            yield Module(name, _nested(name, lora, places[0].block), suffix, places, is_parameter=True)
        elif places[0].kind == ROUTER:  # a parameter of a module that is no nn.Linear
            yield Module(f"{name}.weight", name, f"{suffix}.weight", places, is_parameter=True)
        else:
            yield Module(name, name, suffix, places)


def _nested(name: str, lora: Header, block: int | None) -> str:
    """PEFT wraps a module once for each parameter, the first one innermost: that has the longer key."""
    module, _, parameter = name.rpartition(".")
    both = f"blk.{block}.ffn_down_exps.weight.lora_a" in lora.tensors
    return f"{module}.base_layer" if parameter == GATE_UP and both else module


def _made(base: Header, lora: Header, module: Module, alpha: float) -> Made:
    pairs = [(place, *_pair(base, lora, place)) for place in module.places if _has(lora, place)]
    first = pairs[0][1]
    shared = all(np.array_equal(first, a) for _, a, _ in pairs)
    rank = first.shape[-2] if shared else sum(a.shape[-2] for _, a, _ in pairs)
    place = pairs[0][0]
    shape = base.tensors[place.tensor].shape
    n_out = shape[0] if place.kind == EMBEDDING else module_rows(place, shape[1])
    stack = first.shape[:-2]
    dtype = np.result_type(*(b.dtype for _, _, b in pairs))
    b = np.zeros((*stack, n_out, rank), dtype if shared and alpha else np.float32)
    column = 0
    for place, _, part in pairs:
        order = row_order(base, place, part.shape[-2])
        width = part.shape[-1]
        factor = rank / width if alpha else float(rank)  # PEFT divides by its own rank; alpha 0: by none
        scaled = part if factor == 1.0 else part * np.float32(factor)
        rows = np.arange(part.shape[-2]) if order is None else np.array(order)
        b[..., rows[:, None], np.arange(column, column + width)] = scaled
        column += 0 if shared else width
    a = first if shared else np.concatenate([a for _, a, _ in pairs], axis=-2)
    if stack:  # PEFT 0.21, `ParamWrapper.get_delta_weight`
        a, b = a.reshape(-1, a.shape[-1]), b.transpose(1, 2, 0).reshape(n_out, -1)
    return Made(module, a, b, rank)


def _pair(base: Header, lora: Header, place: Place) -> tuple[Weights, Weights]:
    """(A, B) with A's columns in transformers' order; an embedding's as PEFT has them."""
    a = _array(lora.tensors[f"{place.tensor}.lora_a"])
    b = _array(lora.tensors[f"{place.tensor}.lora_b"])
    if place.kind == EMBEDDING:
        return np.ascontiguousarray(a.T), b
    order = column_order(base, place, a.shape[-1])
    if order is not None:
        unordered = np.empty_like(a)
        unordered[..., order] = a
        a = unordered
    return a, b


def _has(lora: Header, place: Place) -> bool:
    return f"{place.tensor}.lora_a" in lora.tensors


def _array(tensor: TensorInfo) -> Weights:
    values: Weights = read_rows(tensor).reshape(tensor.shape[::-1])
    return values.astype(np.float16) if tensor.type == "F16" else values


def _arrays(made: Made) -> Iterator[tuple[str, Weights]]:
    prefix = f"base_model.model.{made.module.key}"
    embedding = made.module.places[0].kind == EMBEDDING
    a, b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    yield f"{prefix}.{a}", np.ascontiguousarray(made.a)
    yield f"{prefix}.{b}", np.ascontiguousarray(made.b)


def _everywhere(base: Header, architecture: Architecture) -> Counter[str]:
    """How many modules of the base go by each name inside a layer."""
    counted: Counter[str] = Counter()
    for name, suffix in _candidates(architecture, base.block_count, architecture.roots[0]):
        places = locate(architecture, name, base.tensors)
        counted[suffix] += bool(places) and all(place.tensor in base.tensors for place in places)
    return counted


def _config(base: Header, present: Sequence[Made], *, alpha: float, base_name: str | None) -> dict[str, Any]:
    ((rank, _),) = Counter(made.rank for made in present).most_common(1)
    architecture = ARCHITECTURES[base.architecture]
    everywhere = _everywhere(base, architecture)
    used = Counter(made.module.suffix for made in present)
    modules: set[str] = set()
    parameters: set[str] = set()
    for made in present:
        suffix, one = made.module.suffix, made.module
        whole = used[suffix] == everywhere[suffix.removesuffix(".weight")]
        (parameters if one.is_parameter else modules).add(suffix if whole else one.name)
    ranks = {made.module.name: made.rank for made in present if made.rank != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name or base.name or "",
        "r": rank,
        "lora_alpha": _number(alpha or 1.0),
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(modules),
        "target_parameters": sorted(parameters) or None,
        "rank_pattern": {name.replace(".", r"\."): value for name, value in ranks.items()},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": architecture.fan_in_fan_out,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value
