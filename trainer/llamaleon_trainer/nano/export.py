"""nano as a GGUF file: F16 matrices, F32 norms and biases, the tokenizer and the chat template inside."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer

from llamaleon_trainer.nano.model import Nano
from llamaleon_trainer.nano.tokenizer import CHAT_TEMPLATE, ENDOFTEXT, IM_END, SPECIAL, merges_of

_BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
_OUTER_NAMES = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a parameter.

    >>> gguf_name("layers.2.q_proj.bias")
    'blk.2.attn_q.bias'
    """
    parts = name.split(".")
    if parts[0] == "layers":
        return f"blk.{parts[1]}.{_BLOCK_NAMES[parts[2]]}.{parts[3]}"
    return f"{_OUTER_NAMES[parts[0]]}.{parts[1]}"


def _write_settings(writer: gguf.GGUFWriter, model: Nano) -> None:
    shape = model.shape
    writer.add_name("nano")
    writer.add_description("Llamaleon's demonstration model, trained from scratch on generated text")
    writer.add_license("MIT")
    writer.add_languages(["es", "en"])
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=lambda token: vocab[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges(merges_of(tokenizer))
    writer.add_eos_token_id(vocab[IM_END])
    writer.add_bos_token_id(vocab[ENDOFTEXT])
    writer.add_pad_token_id(vocab[ENDOFTEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def export(model: Nano, tokenizer: Tokenizer, path: Path) -> None:
    """Write the file beside its destination and move it there, so that a reader never sees half of one."""
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "qwen2")
    _write_settings(writer, model)
    _write_tokenizer(writer, tokenizer)
    for name, parameter in model.named_parameters():
        array = parameter.detach().float().numpy()
        writer.add_tensor(gguf_name(name), array.astype(np.float16) if array.ndim == 2 else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)
