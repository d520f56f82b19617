"""Where a module of a transformers model lies in a GGUF, for every architecture proved against PEFT.

An architecture enters this table together with a numeric test: names alone do not show a permutation.
Only tensors to which llama.cpp's graph applies LoRA are named, so that nothing is silently ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
GATED_MLP = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
LLAMA_LIKE = {**ATTENTION, **GATED_MLP}

# Names of the module that holds the layers: text models, and the text half of multimodal ones.
LLAMA_ROOTS = ("model", "model.language_model", "language_model.model")
EMBEDDING, HEAD = "token_embd", "output"


@dataclass(frozen=True, slots=True)
class Architecture:
    """`layers` maps a module inside a layer to the GGUF tensor (without `blk.N.` and `.weight`)."""

    layers: dict[str, str] = field(default_factory=lambda: LLAMA_LIKE)
    roots: tuple[str, ...] = LLAMA_ROOTS
    layer_list: str = "layers"
    embedding: str = "embed_tokens"
    # llama.cpp rotates neighbouring pairs of a head, transformers its halves: rows of q and k are reordered.
    interleaves_heads: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(interleaves_heads=True),  # also Mistral
    "qwen2": Architecture(),
    "qwen3": Architecture(),
    "gemma": Architecture(),
    "gemma2": Architecture(),
    "gemma3": Architecture(),
    "granite": Architecture(interleaves_heads=True),
    "olmo2": Architecture(),
    "smollm3": Architecture(interleaves_heads=True),
    "stablelm": Architecture(),
    "starcoder2": Architecture(layers={**ATTENTION, "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}),
    # Mixtures of experts: their attention.
    "granitemoe": Architecture(layers=ATTENTION, interleaves_heads=True),
    "qwen3moe": Architecture(layers=ATTENTION),
    "phi3": Architecture(
        layers={
            "self_attn.qkv_proj": "attn_qkv",
            "self_attn.o_proj": "attn_output",
            "mlp.gate_up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down",
        }
    ),
    "gpt2": Architecture(
        layers={
            "attn.c_attn": "attn_qkv",
            "attn.c_proj": "attn_output",
            "mlp.c_fc": "ffn_up",
            "mlp.c_proj": "ffn_down",
        },
        roots=("transformer",),
        layer_list="h",
        embedding="wte",
    ),
}


# Of architectures that are served but not converted: tensors that llama.cpp's graph multiplies without LoRA.
# Probed with llama-cpp-python 0.3.36; the engine looks at the graph itself when it loads an adapter.
IGNORED = {
    "deepseek2": ("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "output"),
    "gemma4": ("per_layer_model_proj", "per_layer_token_embd"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """The GGUF tensor of a module. `block` is None outside the layers."""

    tensor: str
    kind: str  # a value of Architecture.layers, EMBEDDING or HEAD
    block: int | None = None


def locate(architecture: Architecture, module: str) -> Place | None:
    """Where `module` (PEFT's path inside the base model) lies; None if it has no place that LoRA reaches."""
    if module in {"lm_head", "language_model.lm_head"}:
        return Place(f"{HEAD}.weight", HEAD)
    for root in architecture.roots:
        if module == f"{root}.{architecture.embedding}":
            return Place(f"{EMBEDDING}.weight", EMBEDDING)
        match = re.fullmatch(rf"{re.escape(root)}\.{architecture.layer_list}\.(\d+)\.(.+)", module)
        if match and (kind := architecture.layers.get(match[2])):
            return Place(f"blk.{int(match[1])}.{kind}.weight", kind, int(match[1]))
    return None


def lora_reaches(architecture: str, tensor: str) -> bool:
    """Whether llama.cpp's graph applies a LoRA on this GGUF tensor, as far as is known for `architecture`."""
    match = re.fullmatch(r"(blk\.\d+\.)?(.+)\.weight", tensor)
    if match is None or match[2].endswith("norm"):
        return False
    if architecture in ARCHITECTURES:
        return match[2] in {EMBEDDING, HEAD, *ARCHITECTURES[architecture].layers.values()}
    return match[2] not in IGNORED.get(architecture, ())
