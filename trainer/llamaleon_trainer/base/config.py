"""The transformers configuration of a GGUF, built from its metadata.

transformers derives one itself, but drops what it does not expect without a word (rope factors, biases,
attention scales), and trains another model than the one served. Here a family is a function that reads every
key llama.cpp's graph reads; what it cannot express is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from llamaleon_convert.header import Header

from ..errors import BaseUnsupported

Keys = dict[str, Any]


class Metadata:
    """A GGUF's own architecture keys, typed; a missing one without default names itself."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.architecture = header.architecture

    def number(self, key: str, default: float | None = None) -> float:
        name = f"{self.architecture}.{key}"
        value = self.header.get(name, default)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # one number a layer, all the same
        if isinstance(value, bool) or not isinstance(value, int | float):
            state = "differs from layer to layer" if isinstance(value, list) else "is missing"
            raise BaseUnsupported(f"the GGUF's metadata key {name} {state}")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        return int(self.number(key, default))

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.header

    def text(self, key: str, default: str) -> str:
        return str(self.header.get(f"{self.architecture}.{key}", default))

    def has_tensor(self, name: str) -> bool:
        return name in self.header.tensors

    @property
    def head_dim(self) -> int:
        heads, width = self.integer("attention.head_count"), self.integer("embedding_length")
        dim = self.integer("attention.key_length", width // heads)
        if self.integer("attention.value_length", dim) != dim:
            raise BaseUnsupported("attention heads whose keys and values differ in size are not supported")
        return dim


class Family(NamedTuple):
    """How one GGUF architecture maps to transformers.

    `permuted`: rows of q and k are stored for llama.cpp's interleaved rotation (llama-like conversions);
    `norm_offset`: what the conversion added to each norm weight; `transposed`: Conv1D weights (in, out).
    """

    model_type: str
    configure: Callable[[Metadata], Keys]
    permuted: bool = False
    norm_offset: float = 0.0
    transposed: tuple[str, ...] = ()


def family_of(header: Header) -> Family:
    """Raises: BaseUnsupported, with the architectures that are."""
    family = FAMILIES.get(header.architecture)
    if family is None:
        raise BaseUnsupported(
            f"training on the GGUF architecture {header.architecture!r} is not supported; "
            f"supported: {', '.join(FAMILIES)}. Give a Hugging Face directory of the same model as `base`."
        )
    return family


def config_keys(header: Header) -> Keys:
    """Keyword arguments of the transformers configuration of this GGUF."""
    meta = Metadata(header)
    family = family_of(header)
    if meta.integer("expert_count", 0) > 0:
        raise BaseUnsupported("mixture-of-experts models are not supported")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise BaseUnsupported("the GGUF has no tensor token_embd.weight: not a language model")
    return {
        "vocab_size": embedding.shape[1],
        "tie_word_embeddings": not meta.has_tensor("output.weight"),
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        **family.configure(meta),
    }


def _decoder(meta: Metadata) -> Keys:
    """What every family of the Llama line shares."""
    heads = meta.integer("attention.head_count")
    return {
        "hidden_size": meta.integer("embedding_length"),
        "intermediate_size": meta.integer("feed_forward_length"),
        "num_hidden_layers": meta.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.integer("attention.head_count_kv", heads),
        "head_dim": meta.head_dim,
        "max_position_embeddings": meta.integer("context_length"),
        "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(meta),
    }


def _rope(meta: Metadata) -> Keys:
    """Rotary parameters. `rope_freqs.weight` (Llama 3) is applied to the frequencies after loading."""
    rope: Keys = {"rope_type": "default", "rope_theta": meta.number("rope.freq_base", 10000.0)}
    kind = meta.text("rope.scaling.type", "linear" if meta.has("rope.scale_linear") else "none")
    if kind == "linear":
        factor = meta.number("rope.scaling.factor", meta.number("rope.scale_linear", 1.0))
        rope |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        rope |= _yarn(meta)
    elif kind not in ("none", "longrope"):
        raise BaseUnsupported(f"rope scaling of type {kind!r} is not supported")
    dimensions = meta.integer("rope.dimension_count", meta.head_dim)
    if dimensions != meta.head_dim:
        if meta.architecture != "phi3":  # the other classes rotate every dimension
            raise BaseUnsupported(f"rotating {dimensions} of {meta.head_dim} dimensions is not supported")
        rope["partial_rotary_factor"] = dimensions / meta.head_dim
    return rope


def _yarn(meta: Metadata) -> Keys:
    factor = meta.number("rope.scaling.factor")
    magnitude = 1.0 + 0.1 * math.log(factor) if factor > 1 else 1.0
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": meta.integer("rope.scaling.original_context_length"),
        "attention_factor": meta.number("rope.scaling.attn_factor", 1.0) * magnitude,
        "beta_fast": meta.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": meta.number("rope.scaling.yarn_beta_slow", 1.0),
    }


def _llama(meta: Metadata) -> Keys:
    biases = {
        "attention_bias": meta.has_tensor("blk.0.attn_q.bias"),
        "mlp_bias": meta.has_tensor("blk.0.ffn_up.bias"),
    }
    return {**_decoder(meta), **biases}


def _qwen2(meta: Metadata) -> Keys:
    return {**_decoder(meta), "use_sliding_window": False}


def _qwen3(meta: Metadata) -> Keys:
    return {**_qwen2(meta), "attention_bias": meta.has_tensor("blk.0.attn_q.bias")}


def _granite(meta: Metadata) -> Keys:
    multipliers = {
        "embedding_multiplier": meta.number("embedding_scale", 1.0),
        "residual_multiplier": meta.number("residual_scale", 1.0),
        "attention_multiplier": meta.number("attention.scale", meta.head_dim**-0.5),
        "logits_scaling": meta.number("logit_scale", 1.0),
    }
    return {**_llama(meta), **multipliers}


def _gemma(meta: Metadata, blocks_of_27b: int) -> Keys:
    """The attention scale is not in the file: llama.cpp knows the 27 B model by its number of blocks."""
    keys = _decoder(meta)
    if keys["num_hidden_layers"] == blocks_of_27b:
        scalar = keys["hidden_size"] / keys["num_attention_heads"]
    else:
        scalar = keys["head_dim"]
    return {**keys, "query_pre_attn_scalar": scalar, "hidden_activation": "gelu_pytorch_tanh"}


def _gemma2(meta: Metadata) -> Keys:
    return {
        **_gemma(meta, blocks_of_27b=46),
        "sliding_window": meta.integer("attention.sliding_window", 4096),
        "attn_logit_softcapping": meta.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": meta.number("final_logit_softcapping", 30.0),
    }


def _gemma3(meta: Metadata) -> Keys:
    keys = _gemma(meta, blocks_of_27b=62)
    blocks = keys["num_hidden_layers"]
    window = meta.integer("attention.sliding_window", 0)
    every = meta.integer("attention.sliding_window_pattern", 6)
    local = {"rope_type": "default", "rope_theta": meta.number("rope.freq_base_swa", 10000.0)}
    cap = meta.number("final_logit_softcapping", 0.0)
    return {
        **keys,
        "sliding_window": window or keys["max_position_embeddings"],
        "layer_types": [
            "sliding_attention" if window and (block + 1) % every else "full_attention"
            for block in range(blocks)
        ],
        "rope_parameters": {"full_attention": keys["rope_parameters"], "sliding_attention": local},
        "final_logit_softcapping": cap or None,
    }


def _phi3(meta: Metadata) -> Keys:
    keys = _decoder(meta)
    if keys["head_dim"] * keys["num_attention_heads"] != keys["hidden_size"]:
        raise BaseUnsupported("a phi3 model whose heads do not add up to its width is not supported")
    del keys["head_dim"]
    # llama.cpp masks to the window in phi3 graphs only when the file says so.
    return {**keys, "sliding_window": meta.integer("attention.sliding_window", 0) or None}


def _gpt2(meta: Metadata) -> Keys:
    return {
        "n_embd": meta.integer("embedding_length"),
        "n_layer": meta.integer("block_count"),
        "n_head": meta.integer("attention.head_count"),
        "n_inner": meta.integer("feed_forward_length"),
        "n_positions": meta.integer("context_length"),
        "layer_norm_epsilon": meta.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }


FAMILIES = {
    "llama": Family("llama", _llama, permuted=True),
    "qwen2": Family("qwen2", _qwen2),
    "qwen3": Family("qwen3", _qwen3),
    "gemma2": Family("gemma2", _gemma2, norm_offset=1.0),
    "gemma3": Family("gemma3_text", _gemma3, norm_offset=1.0),
    "phi3": Family("phi3", _phi3),
    "granite": Family("granite", _granite, permuted=True),
    "gpt2": Family("gpt2", _gpt2, transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down")),
}
