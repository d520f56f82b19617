"""A base's extents, from its header: what the costs of training depend on. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llamaleon_convert.header import Header

from .job import JobSpec

# Numbers that a block keeps for each token, in units of its widths, beside keys and values: the inputs of
# norms and of the LoRA layers, queries, attention's output and the products of the MLP. Counted in
# transformers' Llama, which every family resembles.
KEPT_HIDDEN, KEPT_FFN = 7, 4
# Names of transformers modules that a job may choose, and the GGUF's.
MODULES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "qkv_proj": "attn_qkv",
    "gate_up_proj": "ffn_up",
    "c_attn": "attn_qkv",
    "c_fc": "ffn_up",
}


@dataclass(frozen=True)
class Shape:
    """A base as far as costs go. Widths are in numbers."""

    hidden: int
    ffn: int
    key_value: int
    attention: int
    layers: int
    vocabulary: int
    linear: int  # weights that one token meets in all blocks
    lora: int  # trained weights

    @property
    def kept(self) -> int:
        """Numbers that are kept of a token in one block."""
        return KEPT_HIDDEN * self.hidden + 2 * self.key_value + KEPT_FFN * self.ffn


def shape_of(base: Header, spec: JobSpec) -> Shape:
    blocks = {name: info.shape for name, info in base.tensors.items() if name.startswith("blk.")}
    linears = {name: extents for name, extents in blocks.items() if len(extents) > 1 and "norm" not in name}
    used = base.model_value("expert_used_count")
    experts = base.model_value("expert_count")
    active = used / experts if isinstance(used, int) and isinstance(experts, int) and experts else 1.0
    linear, lora, chosen = 0.0, 0, _chosen(spec)
    ffn = attention = key_value = 0
    for name, extents in linears.items():
        part = name.split(".")[2]
        linear += math.prod(extents) * (active if len(extents) > 2 else 1.0)
        if len(extents) == 2 and (chosen is None or part in chosen):
            lora += spec.lora.r * sum(extents)
        if part == "ffn_down":
            ffn = max(ffn, extents[0])
        elif part == "attn_output":
            attention = max(attention, extents[0])
        elif part == "attn_k":
            key_value = max(key_value, extents[1])
    hidden = base.embedding_length
    return Shape(
        hidden=hidden,
        ffn=ffn or 4 * hidden,
        key_value=key_value or hidden,
        attention=attention or hidden,
        layers=base.block_count,
        vocabulary=base.vocab_size,
        linear=round(linear),
        lora=lora,
    )


def _chosen(spec: JobSpec) -> set[str] | None:
    """GGUF names of the layers that are trained; None for all."""
    wanted = spec.lora.target_modules
    if isinstance(wanted, str):
        return None
    return {MODULES.get(name.rsplit(".", 1)[-1], name) for name in wanted}
