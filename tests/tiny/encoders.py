"""Tiny random BERTs, as embedding models and as a cross-encoder, written as llama.cpp's converter does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

WORDS = tuple(
    word
    for line in (
        "the a cat dog sat ran on under mat tree sun",
        "is warm cold house red blue who what where ?",
    )
    for word in line.split()
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENS = (*SPECIAL, *WORDS, "##s", "##ing")
UNKNOWN, CLS, SEP = 1, 2, 3
CONTEXT_TOKENS = 64
CONFIG = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT_TOKENS,
    "type_vocab_size": 2,
}
# Where the classification head of transformers lies: llama.cpp has it in front of the classifier.
HEAD = {"bert.pooler.dense": "cls", "classifier": "cls.output"}


def encoder(path: Path, pooling: gguf.PoolingType, *, seed: int = 0) -> PreTrainedModel:
    """Write a BERT; with the pooling RANK one that scores pairs. Returns: transformers' own."""
    config = transformers.BertConfig(**CONFIG, num_labels=1)
    ranks = pooling is gguf.PoolingType.RANK
    model: PreTrainedModel = (
        transformers.BertForSequenceClassification(config)
        if ranks
        else transformers.BertModel(config, add_pooling_layer=False)
    )
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            scaled = noise * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2 * noise
            parameter.copy_(scaled + ("LayerNorm.weight" in name))
    _write(path, model.eval(), pooling)
    return model


def tokens_of(text: str) -> list[int]:
    """Of words of the vocabulary, with the tokens that begin and end a text."""
    return [CLS, *(TOKENS.index(word) for word in text.split()), SEP]


def _write(path: Path, model: Any, pooling: gguf.PoolingType) -> None:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_type("model")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_layer_norm_eps(model.config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    _add_vocabulary(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, CONFIG["num_hidden_layers"])
    for name, parameter in model.named_parameters():
        stem, _, kind = name.rpartition(".")
        target = HEAD.get(stem) or names.get_name(stem.removeprefix("bert."))
        if target is None:
            raise KeyError(f"no GGUF name for {name}")
        writer.add_tensor(f"{target}.{kind}", np.ascontiguousarray(parameter.detach().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_token_type_count(CONFIG["type_vocab_size"])
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    # A word begins with a mark here, and what continues one has none: the other way round than in BERT.
    writer.add_token_list(
        [
            token if token in SPECIAL else token[2:] if token.startswith("##") else f"\u2581{token}"
            for token in TOKENS
        ]
    )
    control = gguf.TokenType.CONTROL
    writer.add_token_types([control if token in SPECIAL else gguf.TokenType.NORMAL for token in TOKENS])
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(CLS)
    writer.add_sep_token_id(SEP)
    writer.add_mask_token_id(4)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(False)
