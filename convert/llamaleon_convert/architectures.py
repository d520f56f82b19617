"""Where a module of a transformers model lies in a GGUF, for every architecture proved against PEFT.

An architecture enters this table together with a numeric test: names alone do not show a permutation.
Only tensors to which llama.cpp's graph applies LoRA are named, so that nothing is silently ignored.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from enum import Enum

from msgspec import Struct, field


class Rows(Enum):
    """Which of a module's output rows make up a tensor: gate and up often share one module."""

    ALL = "all"
    FIRST = "the first half"
    SECOND = "the second half"
    EVEN = "every other one from the first"
    ODD = "every other one from the second"


class Cut(Struct, frozen=True):
    """One tensor out of a module. Of several `kinds` (without `blk.N.` and `.weight`) the base has one."""

    kinds: tuple[str, ...]
    rows: Rows = Rows.ALL


class Experts(Struct, frozen=True):
    """The experts of a mixture: since transformers 5 two parameters of one module, before a module each."""

    module: str = "mlp.experts"
    apart: Mapping[str, str] = field(
        default_factory=lambda: {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    )
    older: str | None = None  # the module's name before transformers 5, where it was another
    interleaved: bool = False  # gate and up take turns in `gate_up_proj`


Modules = Mapping[str, tuple[Cut, ...]]


def _plain(names: Mapping[str, str]) -> dict[str, tuple[Cut, ...]]:
    return {module: (Cut((kind,)),) for module, kind in names.items()}


ATTENTION = _plain(
    {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
    }
)
GATED_MLP = _plain({"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"})
LLAMA_LIKE = {**ATTENTION, **GATED_MLP}
ROUTER = "ffn_gate_inp"
# Granite's own feed-forward net, beside the experts or, where there are none, instead of them.
GRANITE_MLP: dict[str, tuple[Cut, ...]] = {
    "shared_mlp.input_linear": (
        Cut(("ffn_gate_shexp", "ffn_gate"), Rows.FIRST),
        Cut(("ffn_up_shexp", "ffn_up"), Rows.SECOND),
    ),
    "shared_mlp.output_linear": (Cut(("ffn_down_shexp", "ffn_down")),),
}

# Names of the module that holds the layers: text models, and the text half of multimodal ones.
LLAMA_ROOTS = ("model", "model.language_model", "language_model.model")
EMBEDDING, HEAD = "token_embd", "output"


class Architecture(Struct, frozen=True):
    """`layers` maps a module inside a layer to the tensors that it becomes."""

    layers: Modules = field(default_factory=lambda: LLAMA_LIKE)
    roots: tuple[str, ...] = LLAMA_ROOTS
    layer_list: str = "layers"
    embedding: str = "embed_tokens"
    experts: Experts | None = None
    # llama.cpp rotates neighbouring pairs of a head, transformers its halves: rows of q and k are reordered.
    interleaves_heads: bool = False
    # llama.cpp repeats the keys' heads in turns, transformers each in place: the values' are reordered.
    tiles_value_heads: bool = False
    # Conv1D keeps its weight as (n_in, n_out), which PEFT wants to be told.
    fan_in_fan_out: bool = False

    def kinds(self) -> set[str]:
        """Tensors of a layer that a LoRA reaches, without `blk.N.` and `.weight`."""
        found = {kind for cuts in self.layers.values() for cut in cuts for kind in cut.kinds}
        if self.experts is not None:
            found |= {f"ffn_{part}_exps" for part in ("gate", "up", "down")}
        return found


_GRANITE_EXPERTS = Experts("block_sparse_moe.experts")
_GRANITE_ROUTER = {"block_sparse_moe.router": ROUTER, "block_sparse_moe.router.layer": ROUTER}
_GRANITE_MOE = {**ATTENTION, **_plain(_GRANITE_ROUTER), **GRANITE_MLP}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(  # also Mistral; with experts: Mixtral
        layers={**LLAMA_LIKE, **_plain({"mlp.gate": ROUTER, "block_sparse_moe.gate": ROUTER})},
        experts=Experts(apart={"w1": "gate", "w3": "up", "w2": "down"}, older="block_sparse_moe.experts"),
        interleaves_heads=True,
    ),
    "qwen2": Architecture(),
    "qwen3": Architecture(),
    "gemma": Architecture(),
    "gemma2": Architecture(),
    "gemma3": Architecture(),
    "granite": Architecture(interleaves_heads=True),
    "olmo2": Architecture(),
    "smollm3": Architecture(interleaves_heads=True),
    "stablelm": Architecture(),
    "starcoder2": Architecture(
        layers={**ATTENTION, **_plain({"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"})}
    ),
    "granitemoe": Architecture(layers=_GRANITE_MOE, experts=_GRANITE_EXPERTS, interleaves_heads=True),
    "qwen3moe": Architecture(layers={**LLAMA_LIKE, **_plain({"mlp.gate": ROUTER})}, experts=Experts()),
    "gpt-oss": Architecture(
        layers={**ATTENTION, **_plain({"mlp.router": ROUTER})}, experts=Experts(interleaved=True)
    ),
    "granitehybrid": Architecture(
        layers={**_GRANITE_MOE, **_plain({"mamba.in_proj": "ssm_in", "mamba.out_proj": "ssm_out"})},
        experts=_GRANITE_EXPERTS,
        interleaves_heads=True,
    ),
    "lfm2": Architecture(
        layers={
            **_plain(
                {
                    "self_attn.q_proj": "attn_q",
                    "self_attn.k_proj": "attn_k",
                    "self_attn.v_proj": "attn_v",
                    "self_attn.out_proj": "attn_output",
                    "conv.in_proj": "shortconv.in_proj",
                    "conv.out_proj": "shortconv.out_proj",
                    "feed_forward.w1": "ffn_gate",
                    "feed_forward.w3": "ffn_up",
                    "feed_forward.w2": "ffn_down",
                }
            )
        }
    ),
    "qwen35": Architecture(
        layers={
            **LLAMA_LIKE,
            **_plain(
                {
                    "linear_attn.in_proj_qkv": "attn_qkv",
                    "linear_attn.in_proj_z": "attn_gate",
                    "linear_attn.in_proj_a": "ssm_alpha",
                    "linear_attn.in_proj_b": "ssm_beta",
                    "linear_attn.out_proj": "ssm_out",
                }
            ),
        },
        tiles_value_heads=True,
    ),
    "phi3": Architecture(
        layers=_plain(
            {
                "self_attn.qkv_proj": "attn_qkv",
                "self_attn.o_proj": "attn_output",
                "mlp.gate_up_proj": "ffn_up",
                "mlp.down_proj": "ffn_down",
            }
        )
    ),
    "gpt2": Architecture(
        layers=_plain(
            {
                "attn.c_attn": "attn_qkv",
                "attn.c_proj": "attn_output",
                "mlp.c_fc": "ffn_up",
                "mlp.c_proj": "ffn_down",
            }
        ),
        roots=("transformer",),
        layer_list="h",
        embedding="wte",
        fan_in_fan_out=True,
    ),
}


# Of architectures that are served but not converted: tensors that llama.cpp's graph multiplies without LoRA.
# Probed with llama-cpp-python 0.3.36; the engine looks at the graph itself when it loads an adapter.
IGNORED = {
    "deepseek2": ("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "output"),
    "gemma4": ("per_layer_model_proj", "per_layer_token_embd"),
}


class Place(Struct, frozen=True):
    """The GGUF tensor of a module, or of a part of it. `block` is None outside the layers."""

    tensor: str
    kind: str  # of Architecture.kinds(), EMBEDDING or HEAD
    block: int | None = None
    rows: Rows = Rows.ALL
    stacked: bool = False  # all experts in one parameter
    expert: int | None = None  # the one expert of this module


def locate(architecture: Architecture, module: str, tensors: Container[str]) -> list[Place]:
    """Where `module` (PEFT's path inside the base model) lies; empty if it has no place that LoRA reaches.

    Args:
        module: or a parameter of stacked experts, as `target_parameters` names it.
        tensors: names of the base's, for modules that become one tensor or another.
    """
    if module in {"lm_head", "language_model.lm_head"}:
        return [Place(f"{HEAD}.weight", HEAD)]
    for root in architecture.roots:
        if module == f"{root}.{architecture.embedding}":
            return [Place(f"{EMBEDDING}.weight", EMBEDDING)]
        match = re.fullmatch(rf"{re.escape(root)}\.{architecture.layer_list}\.(\d+)\.(.+)", module)
        if match is None:
            continue
        block, inner = int(match[1]), match[2]
        if cuts := architecture.layers.get(inner):
            return [_place(cut, block, tensors) for cut in cuts]
        if architecture.experts is not None:
            return _expert_places(architecture.experts, inner, block)
    return []


def _place(cut: Cut, block: int, tensors: Container[str]) -> Place:
    names = [f"blk.{block}.{kind}.weight" for kind in cut.kinds]
    index = next((i for i, name in enumerate(names) if name in tensors), 0)
    return Place(names[index], cut.kinds[index], block, cut.rows)


def _expert_places(experts: Experts, inner: str, block: int) -> list[Place]:
    def place(part: str, **more: object) -> Place:
        kind = f"ffn_{part}_exps"
        return Place(f"blk.{block}.{kind}.weight", kind, block, **more)  # type: ignore[arg-type]  # of Place

    first, second = (Rows.EVEN, Rows.ODD) if experts.interleaved else (Rows.FIRST, Rows.SECOND)
    gate_up = [place("gate", rows=first, stacked=True), place("up", rows=second, stacked=True)]
    down = [place("down", stacked=True)]
    stacked = {"": gate_up + down, ".gate_up_proj": gate_up, ".down_proj": down}
    for module in (experts.module, experts.older or experts.module):
        if inner.startswith(module) and (found := stacked.get(inner.removeprefix(module))):
            return found
        match = re.fullmatch(rf"{re.escape(module)}\.(\d+)\.(\w+)", inner)
        if match is not None and (part := experts.apart.get(match[2])):
            return [place(part, expert=int(match[1]))]
    return []


def lora_reaches(architecture: str, tensor: str) -> bool:
    """Whether llama.cpp's graph applies a LoRA on this GGUF tensor, as far as is known for `architecture`."""
    match = re.fullmatch(r"(blk\.\d+\.)?(.+)\.weight", tensor)
    if match is None or match[2].endswith("norm"):
        return False
    if architecture in ARCHITECTURES:
        return match[2] in {EMBEDDING, HEAD} | ARCHITECTURES[architecture].kinds()
    return match[2] not in IGNORED.get(architecture, ())
