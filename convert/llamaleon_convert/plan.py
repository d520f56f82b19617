"""Decides, from names and shapes alone, which GGUF tensors each PEFT module becomes. Reads no weights.

Shapes here are row-major, `(rank, n_in)`; a GGUF header's are reversed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from llamaleon_convert.architectures import ARCHITECTURES, EMBEDDING, HEAD, Place, locate
from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.header import Header
from llamaleon_convert.order import Order, column_order, module_rows, row_order
from llamaleon_convert.peft_config import MERGE, PeftConfig
from llamaleon_convert.safetensors_file import SafetensorsFile

KEY = re.compile(
    r"base_model\.model\.(?P<module>.+?)\."
    r"(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB])|(?P<copy>base_layer\.weight))"
)
NESTED = re.compile(r"(\.base_layer)+$")  # PEFT wraps a module once for each of its parameters
TIED = (
    "the base ties its embedding to its output head, and llama.cpp then has one tensor for both, so a LoRA "
    f"on one of them cannot be expressed. Train without `embed_tokens` and `lm_head`. {MERGE}"
)
Shape = tuple[int, ...]


class Source(Struct, frozen=True):
    """A pair of arrays of the safetensors file. `factor` is what B is multiplied by beside its fellows."""

    a: str
    b: str
    rank: int
    factor: float = 1.0


class Target(Struct, frozen=True):
    """One tensor of the base on its way into the GGUF LoRA; shapes as served."""

    module: str
    tensor: str
    sources: tuple[Source | None, ...]  # one; or one for each expert, None for those without a LoRA
    rank: int
    scaling: float  # PEFT's factor on `B A x`
    a_shape: Shape
    b_shape: Shape
    transpose_a: bool = False  # embeddings: stored (rank, n_vocab), served (n_vocab, rank)
    experts: int | None = None  # stacked: A is stored (n_experts * rank, n_in), B (n_out, rank * n_experts)
    rows: Order | None = None  # order of B's rows
    columns: Order | None = None  # order of A's columns


class BaseCopy(Struct, frozen=True):
    """A base weight that PEFT saved beside a LoRA on an embedding or head: must be the base's own."""

    name: str
    tensor: str


class Plan(Struct, frozen=True):
    targets: list[Target]
    base_copies: list[BaseCopy]


def require_supported(base: Header) -> None:
    """Raises: Refused if the base's architecture is not proved."""
    if base.architecture not in ARCHITECTURES:
        raise Refused(
            f"{base.path}: architecture {base.architecture!r} is not supported; "
            f"supported are {', '.join(sorted(ARCHITECTURES))}. {MERGE}"
        )


def places_of(base: Header, module: str, called: str) -> list[Place]:
    """Where `module` lies in the base. Raises: Refused (of `called`) if llama.cpp applies no LoRA there."""
    places = locate(ARCHITECTURES[base.architecture], module, base.tensors)
    if not places:
        raise Refused(
            f"{called} has no counterpart in a {base.architecture} GGUF to which "
            f"llama.cpp applies a LoRA. Train without this target module. {MERGE}"
        )
    for place in places:
        if place.kind in {EMBEDDING, HEAD} and "output.weight" not in base.tensors:
            raise Refused(f"module {module!r}: {TIED}")
        if place.tensor not in base.tensors:
            raise Refused(
                f"module {module!r} would be {place.tensor!r}, which {base.path.name} does not have "
                f"({base.architecture}, {base.block_count} blocks). Was the adapter made for another base?"
            )
    return places


def make_plan(config: PeftConfig, weights: SafetensorsFile, base: Header) -> Plan:
    """Raises: Refused naming the module or tensor that cannot be expressed or does not fit the base."""
    require_supported(base)
    modules: dict[str, dict[str, str]] = {}
    copies: list[BaseCopy] = []
    for name in weights.entries:
        match = KEY.fullmatch(name)
        if match is None:
            raise _unexpected(weights.path, name)
        module = NESTED.sub("", match["module"])
        (place, *_) = places_of(base, module, f"tensor {name!r}: module {module!r}")
        if match["copy"]:
            copies.append(BaseCopy(name, place.tensor))
            continue
        if (place.kind == EMBEDDING) != bool(match["embedding"]):
            raise _unexpected(weights.path, name)
        modules.setdefault(match["module"], {})[match["linear"] or match["embedding"]] = name
    if not modules:
        raise Refused(f"{weights.path}: holds no LoRA tensors.")
    for copy in copies:
        _check_copy_shape(weights, base, copy)
    found = [
        target
        for module, pair in modules.items()
        for target in _targets(config, weights, base, module, _whole(weights, module, pair))
    ]
    return Plan(_together(base, found), copies)


def _whole(weights: SafetensorsFile, module: str, pair: Mapping[str, str]) -> Mapping[str, str]:
    if missing := {"A", "B"} - set(pair):
        raise ConvertError(f"{weights.path}: module {module!r} has no lora_{missing.pop()}.")
    return pair


def _targets(
    config: PeftConfig, weights: SafetensorsFile, base: Header, key: str, pair: Mapping[str, str]
) -> list[Target]:
    """What one module of the file becomes; `key` may end in `.base_layer`."""
    module = NESTED.sub("", key)
    a, b = weights.entries[pair["A"]].shape, weights.entries[pair["B"]].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] == 0:
        raise ConvertError(
            f"module {module!r}: lora_A {a} and lora_B {b} are not (rank, n_in) and (n_out, rank)."
        )
    places, name = places_of(base, module, f"module {module!r}"), module
    if places[0].stacked:
        name = f"{module}.{_parameter(base, places, module, a[1], b[0])}"
        places = places_of(base, name, f"parameter {name!r}")
    for place in places:
        _check_shapes(base, module, place, a, b)
    experts = base.tensors[places[0].tensor].shape[2] if places[0].stacked else 1
    names = (name, f"{name}.weight")  # PEFT's patterns name the parameter, where that was targeted
    if a[0] != config.rank(*names) * experts:
        raise Refused(
            f"module {module!r}: adapter_config.json says rank {config.rank(*names)} (`r`, `rank_pattern`), "
            f"its tensors have rank {a[0] // experts}. Config and weights are not of the same adapter."
        )
    source = Source(pair["A"], pair["B"], a[0] // experts)
    return [_target(base, place, module, source, config.scaling(*names)) for place in places]


def _target(base: Header, place: Place, module: str, source: Source, scaling: float) -> Target:
    n_in, n_out, *stack = base.tensors[place.tensor].shape
    rank, outer = source.rank, tuple(stack)
    target = Target(
        module=module,
        tensor=place.tensor,
        sources=(source,),
        rank=rank,
        scaling=scaling,
        a_shape=(*outer, rank, n_in),
        b_shape=(*outer, n_out, rank),
        experts=stack[0] if place.stacked else None,
    )
    if place.kind == EMBEDDING:
        return replace(target, transpose_a=True, a_shape=(n_out, rank), b_shape=(n_in, rank))
    if place.expert is not None:
        if place.expert >= stack[0]:
            raise Refused(f"module {module!r}: {base.path.name} has {stack[0]} experts.")
        sources = tuple(source if number == place.expert else None for number in range(stack[0]))
        return replace(target, sources=sources)
    return replace(target, rows=row_order(base, place, n_out), columns=column_order(base, place, n_in))


def _parameter(base: Header, places: Sequence[Place], module: str, n_in: int, n_out: int) -> str:
    """Which of the two stacked parameters it is: the file names only their module."""
    up = base.tensors[places[-2].tensor].shape
    if (n_in, n_out) == (up[0], 2 * up[1]):
        return "gate_up_proj"
    if (n_in, n_out) == (up[1], up[0]):
        return "down_proj"
    raise Refused(
        f"module {module!r}: the adapter maps {n_in} to {n_out} values, experts of {base.path.name} map "
        f"{up[0]} to twice {up[1]}, and back. Was the adapter made for another base?"
    )


def _together(base: Header, found: Sequence[Target]) -> list[Target]:
    """Experts that are a module each become one target; two modules of one tensor are a mistake."""
    targets: dict[str, Target] = {}
    for target in found:
        other = targets.setdefault(target.tensor, target)
        if other is target:
            continue
        fresh = [a is None or b is None for a, b in zip(other.sources, target.sources, strict=False)]
        if len(other.sources) != len(target.sources) or len(fresh) < 2 or not all(fresh):
            raise Refused(
                f"modules {other.module!r} and {target.module!r} are the same tensor {target.tensor!r} of "
                f"the base."
            )
        targets[target.tensor] = _joined(other, target)
    return list(targets.values())


def _joined(one: Target, two: Target) -> Target:
    """Ranks are filled up with zeros; where scales differ, they go into the sources' factors."""
    sources = tuple(
        mine or (yours and replace(yours, factor=yours.factor * two.scaling / one.scaling))
        for mine, yours in zip(one.sources, two.sources, strict=True)
    )
    rank = max(one.rank, two.rank)
    a_shape = (one.a_shape[0], rank, one.a_shape[2])
    return replace(
        one, sources=sources, rank=rank, a_shape=a_shape, b_shape=(one.b_shape[0], one.b_shape[1], rank)
    )


def _check_shapes(base: Header, module: str, place: Place, a: Shape, b: Shape) -> None:
    """A (rank, n_in) and B (n_out, rank). An embedding's n_in is its vocabulary."""
    shape = base.tensors[place.tensor].shape
    stacked = place.stacked or place.expert is not None
    if len(shape) != (3 if stacked else 2):
        raise ConvertError(f"{base.path}: {place.tensor!r} is {shape}, not a matrix; the file is damaged.")
    n_in, n_out = shape[0], module_rows(place, shape[1])
    if place.kind == EMBEDDING:
        n_in, n_out = n_out, n_in
    if (a[1], b[0]) != (n_in, n_out) or (place.stacked and a[0] % shape[2]):
        raise Refused(
            f"module {module!r}: the adapter maps {a[1]} to {b[0]} values, {place.tensor!r} of "
            f"{base.path.name} maps {n_in} to {n_out}. Was the adapter made for another base?"
        )


def _check_copy_shape(weights: SafetensorsFile, base: Header, copy: BaseCopy) -> None:
    shape, served = weights.entries[copy.name].shape, base.tensors[copy.tensor].shape[::-1]
    if shape != served:
        raise Refused(
            f"tensor {copy.name!r} is {shape}, {copy.tensor!r} of {base.path.name} is {served}: the adapter "
            f"was trained with a resized vocabulary, or for another base. {MERGE}"
        )


def _unexpected(path: Path, name: str) -> Refused:
    reason = "it is no part of a plain LoRA"
    if "lora_magnitude_vector" in name:
        reason = "it belongs to DoRA, which GGUF LoRA cannot express"
    elif name.endswith(".bias"):
        reason = "GGUF LoRA has no place for biases"
    elif name.endswith(("embed_tokens.weight", "lm_head.weight", "wte.weight")) or "modules_to_save" in name:
        reason = (
            "a whole layer was saved (a resized vocabulary or `modules_to_save`), for which there is no place"
        )
    elif not name.startswith("base_model.model."):
        reason = "PEFT's keys begin with `base_model.model.`; save the adapter again with `save_pretrained`"
    return Refused(f"{path}: unexpected tensor {name!r}: {reason}. {MERGE}")
