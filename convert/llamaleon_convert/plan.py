"""Decides, from names and shapes alone, which GGUF tensor each PEFT module becomes. Reads no weights.

Shapes here are row-major, `(rank, n_in)`; a GGUF header's are reversed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llamaleon_convert.architectures import ARCHITECTURES, EMBEDDING, HEAD, Place, locate
from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.header import Header
from llamaleon_convert.peft_config import MERGE, PeftConfig
from llamaleon_convert.safetensors_file import SafetensorsFile

KEY = re.compile(
    r"base_model\.model\.(?P<module>.+?)\."
    r"(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB])|(?P<copy>base_layer\.weight))"
)
TIED = (
    "the base ties its embedding to its output head, and llama.cpp then has one tensor for both, so a LoRA "
    f"on one of them cannot be expressed. Train without `embed_tokens` and `lm_head`. {MERGE}"
)


@dataclass(frozen=True, slots=True)
class Target:
    """One module on its way into the GGUF LoRA."""

    module: str
    tensor: str  # of the base
    a: str  # names in the safetensors file
    b: str
    rank: int
    scaling: float  # PEFT's factor on `B A x`
    transpose_a: bool  # embeddings: stored (rank, n_vocab), served (n_vocab, rank)
    heads: int | None  # rows of B are reordered within this many heads


@dataclass(frozen=True, slots=True)
class BaseCopy:
    """A base weight that PEFT saved beside a LoRA on an embedding or head: must be the base's own."""

    name: str
    tensor: str


@dataclass(frozen=True, slots=True)
class Plan:
    targets: list[Target]
    base_copies: list[BaseCopy]


def require_supported(base: Header) -> None:
    """Raises: Refused if the base's architecture is not proved."""
    if base.architecture not in ARCHITECTURES:
        raise Refused(
            f"{base.path}: architecture {base.architecture!r} is not supported; "
            f"supported are {', '.join(sorted(ARCHITECTURES))}. {MERGE}"
        )


def make_plan(config: PeftConfig, weights: SafetensorsFile, base: Header) -> Plan:
    """Raises: Refused naming the module or tensor that cannot be expressed or does not fit the base."""
    require_supported(base)
    modules: dict[str, dict[str, str]] = {}
    copies: list[BaseCopy] = []
    for name in weights.entries:
        match = KEY.fullmatch(name)
        if match is None:
            raise _unexpected(weights.path, name)
        place = _place(base, match["module"], name)
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
    _refuse_doubles(base, modules)
    targets = [_target(config, weights, base, module, pair) for module, pair in modules.items()]
    return Plan(targets, copies)


def _place(base: Header, module: str, name: str) -> Place:
    place = locate(ARCHITECTURES[base.architecture], module)
    if place is None:
        raise Refused(
            f"tensor {name!r}: module {module!r} has no counterpart in a {base.architecture} GGUF to which "
            f"llama.cpp applies a LoRA. Train without this target module. {MERGE}"
        )
    if place.kind in {EMBEDDING, HEAD} and "output.weight" not in base.tensors:
        raise Refused(f"module {module!r}: {TIED}")
    if place.tensor not in base.tensors:
        raise Refused(
            f"module {module!r} would be {place.tensor!r}, which {base.path.name} does not have "
            f"({base.architecture}, {base.block_count} blocks). Was the adapter made for another base?"
        )
    return place


def _refuse_doubles(base: Header, modules: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for module in modules:
        tensor = _place(base, module, module).tensor
        if tensor in seen:
            raise Refused(
                f"modules {seen[tensor]!r} and {module!r} are the same tensor {tensor!r} of the base."
            )
        seen[tensor] = module


def _target(
    config: PeftConfig, weights: SafetensorsFile, base: Header, module: str, pair: dict[str, str]
) -> Target:
    place = _place(base, module, module)
    missing = {"A", "B"} - set(pair)
    if missing:
        raise ConvertError(f"{weights.path}: module {module!r} has no lora_{missing.pop()}.")
    a, b = weights.entries[pair["A"]].shape, weights.entries[pair["B"]].shape
    _check_shapes(base, module, place, a, b)
    if a[0] != config.rank(module):
        raise Refused(
            f"module {module!r}: adapter_config.json says rank {config.rank(module)} (`r`, `rank_pattern`), "
            f"its tensors have rank {a[0]}. The config and the weights are not of the same adapter."
        )
    return Target(
        module=module,
        tensor=place.tensor,
        a=pair["A"],
        b=pair["B"],
        rank=a[0],
        scaling=config.scaling(module),
        transpose_a=place.kind == EMBEDDING,
        heads=_heads(base, place, b[0]),
    )


def _check_shapes(base: Header, module: str, place: Place, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """A (rank, n_in) and B (n_out, rank). An embedding's n_in is its vocabulary."""
    shape = base.tensors[place.tensor].shape
    if len(shape) != 2:
        raise ConvertError(f"{base.path}: {place.tensor!r} is {shape}, not a matrix; the file is damaged.")
    n_in, n_out = shape
    if place.kind == EMBEDDING:
        n_in, n_out = n_out, n_in
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] == 0:
        raise ConvertError(
            f"module {module!r}: lora_A {a} and lora_B {b} are not (rank, n_in) and (n_out, rank)."
        )
    if (a[1], b[0]) != (n_in, n_out):
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


def _heads(base: Header, place: Place, rows: int) -> int | None:
    """How many heads the rows of B make up, if they must be reordered within each."""
    if not ARCHITECTURES[base.architecture].interleaves_heads or place.kind not in {"attn_q", "attn_k"}:
        return None
    count = base.model_value("attention.head_count")
    if place.kind == "attn_k":
        count = base.model_value("attention.head_count_kv") or count
    if isinstance(count, list) and place.block is not None and place.block < len(count):
        count = count[place.block]
    if not isinstance(count, int) or count <= 0 or rows % (2 * count):
        raise ConvertError(
            f"{base.path}: {rows} rows of {place.tensor!r} do not divide into {count!r} heads; "
            "its attention.head_count metadata is damaged."
        )
    return count


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
