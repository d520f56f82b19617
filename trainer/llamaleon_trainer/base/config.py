"""The transformers configuration of a GGUF, built from its metadata.

transformers derives one itself, but drops what it does not expect without a word (rope factors, biases,
attention scales), and trains another model than the one served. Here a family is a function that reads every
key llama.cpp's graph reads; what it cannot express is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llamaleon_convert.header import Header

from ..errors import BaseUnsupported
from . import dense, mixed
from .metadata import Keys, Metadata


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


DENSE = {
    "llama": Family("llama", dense.llama, permuted=True),
    "qwen2": Family("qwen2", dense.qwen2),
    "qwen3": Family("qwen3", dense.qwen3),
    "gemma": Family("gemma", dense.gemma, norm_offset=1.0),
    "gemma2": Family("gemma2", dense.gemma2, norm_offset=1.0),
    "gemma3": Family("gemma3_text", dense.gemma3, norm_offset=1.0),
    "phi3": Family("phi3", dense.phi3),
    "granite": Family("granite", dense.granite, permuted=True),
    "gpt2": Family("gpt2", dense.gpt2, transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down")),
    "olmo2": Family("olmo2", dense.olmo2),
    "smollm3": Family("smollm3", dense.smollm3, permuted=True),
    "stablelm": Family("stablelm", dense.stablelm),
    "starcoder2": Family("starcoder2", dense.starcoder2),
    "lfm2": Family("lfm2", mixed.lfm2),
    "qwen35": Family("qwen3_5_text", mixed.qwen35, norm_offset=1.0),
    "granitehybrid": Family("granitemoehybrid", mixed.granitehybrid, permuted=True),
}
# Where the file has experts.
MIXTURES = {
    "llama": Family("mixtral", mixed.mixtral, permuted=True),
    "qwen3moe": Family("qwen3_moe", mixed.qwen3moe),
    "granitemoe": Family("granitemoe", mixed.granitemoe, permuted=True),
    "gpt-oss": Family("gpt_oss", mixed.gpt_oss),
    "granitehybrid": Family("granitemoehybrid", mixed.granitehybrid, permuted=True),
}
SUPPORTED = [*DENSE, *(name for name in MIXTURES if name not in DENSE)]


def family_of(header: Header) -> Family:
    """Raises: BaseUnsupported, with the architectures that are."""
    experts = Metadata(header).integer("expert_count", 0) > 0
    family = (MIXTURES if experts else DENSE).get(header.architecture)
    if family is None:
        mixture = ", as a mixture of experts," if experts and header.architecture in DENSE else ""
        raise BaseUnsupported(
            f"training on the GGUF architecture {header.architecture!r}{mixture} is not supported; "
            f"supported: {', '.join(SUPPORTED)}. Give a Hugging Face directory of the same model as `base`."
        )
    return family


def config_keys(header: Header) -> Keys:
    """Keyword arguments of the transformers configuration of this GGUF."""
    meta = Metadata(header)
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise BaseUnsupported("the GGUF has no tensor token_embd.weight: not a language model")
    return {
        "vocab_size": embedding.shape[1],
        "tie_word_embeddings": not meta.has_tensor("output.weight"),
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        **family_of(header).configure(meta),
    }
