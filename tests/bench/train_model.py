"""What trainers are compared on: a llama-shaped model as GGUF and as Hugging Face directory, and rows for it.

Random weights and made-up rows: they say nothing, and cost as much to train as real ones of that shape.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
from safetensors.numpy import save_file

from llamaleon_trainer.job import JobSpec, LoraSettings, PreferenceRow, Row, write_spec

BYTES = 256


@dataclass(frozen=True)
class LlamaShape:
    """A llama with tied embeddings. The defaults are 20 million parameters with Llama 2's 32,000 tokens."""

    hidden: int = 320
    layers: int = 8
    ffn: int = 864
    heads: int = 5
    kv_heads: int = 5
    vocabulary: int = 32_000
    context: int = 2048

    @property
    def key_value(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    def linears(self) -> dict[str, tuple[str, int, int]]:
        """GGUF name to (transformers name, n_out, n_in) of a block's linear layers."""
        return {
            "attn_q": ("self_attn.q_proj", self.hidden, self.hidden),
            "attn_k": ("self_attn.k_proj", self.key_value, self.hidden),
            "attn_v": ("self_attn.v_proj", self.key_value, self.hidden),
            "attn_output": ("self_attn.o_proj", self.hidden, self.hidden),
            "ffn_gate": ("mlp.gate_proj", self.ffn, self.hidden),
            "ffn_up": ("mlp.up_proj", self.ffn, self.hidden),
            "ffn_down": ("mlp.down_proj", self.hidden, self.ffn),
        }

    @property
    def parameters(self) -> int:
        block = sum(n_out * n_in for _, n_out, n_in in self.linears().values()) + 2 * self.hidden
        return self.vocabulary * self.hidden + self.layers * block + self.hidden


TWENTY_MILLION = LlamaShape()
QUICK = LlamaShape(hidden=64, layers=2, ffn=128, heads=2, kv_heads=2, vocabulary=512)


def write_model(directory: Path, shape: LlamaShape, *, seed: int = 0) -> tuple[Path, Path]:
    """(GGUF, Hugging Face directory) with the same float32 weights."""
    rng = np.random.default_rng(seed)
    path, hub = directory / "model.gguf", directory / "hf"
    hub.mkdir(parents=True)
    writer = _gguf_writer(path, shape)
    kept: dict[str, Any] = {}

    def add(ours: str, theirs: str, size: tuple[int, ...]) -> None:
        norm = len(size) == 1
        drawn = (
            np.ones(size, np.float32) if norm else rng.standard_normal(size, np.float32) * size[-1] ** -0.5
        )
        kept[theirs] = drawn
        heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(ours.rsplit(".", 1)[-1])
        writer.add_tensor(f"{ours}.weight", _interleaved(drawn, heads) if heads else drawn)

    add("token_embd", "model.embed_tokens.weight", (shape.vocabulary, shape.hidden))
    add("output_norm", "model.norm.weight", (shape.hidden,))
    for block in range(shape.layers):
        prefix = f"model.layers.{block}"
        add(f"blk.{block}.attn_norm", f"{prefix}.input_layernorm.weight", (shape.hidden,))
        add(f"blk.{block}.ffn_norm", f"{prefix}.post_attention_layernorm.weight", (shape.hidden,))
        for name, (module, n_out, n_in) in shape.linears().items():
            add(f"blk.{block}.{name}", f"{prefix}.{module}.weight", (n_out, n_in))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(kept, hub / "model.safetensors", metadata={"format": "pt"})
    (hub / "config.json").write_bytes(msgspec.json.encode(_hub_config(shape)))
    _write_tokenizer(hub, shape)
    return path, hub


def rows(shape: LlamaShape, count: int, *, longest: int = 512, seed: int = 0) -> list[Row]:
    """Questions and answers of the lengths that chats have: half of each row is trained, some are long.

    Their tokens are drawn by Zipf's law, so that there is something to learn.
    """
    rng, draw = random.Random(seed), np.random.default_rng(seed)
    made = []
    for _ in range(count):
        length = min(longest, max(16, round(rng.lognormvariate(5.2, 0.6))))  # median 180 tokens
        tokens = (BYTES + draw.zipf(1.3, length) % (shape.vocabulary - BYTES)).tolist()
        prompt = length // 2
        made.append(Row(tokens, [0.0] * prompt + [1.0] * (length - prompt)))
    return made


def write_job(directory: Path, base: Path, made: Sequence[Row | PreferenceRow], **settings: Any) -> Path:
    """A job directory as the server writes it, with nothing held out and nothing to prove."""
    directory.mkdir(parents=True)
    (directory / "train.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in made))
    lora = LoraSettings(r=16, lora_alpha=32.0)
    defaults: dict[str, Any] = {"job_id": directory.name, "base": str(base), "lora": lora, "epochs": 1}
    write_spec(directory, JobSpec(**{**defaults, **settings}))
    return directory


def _gguf_writer(path: Path, shape: LlamaShape) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"token{number}" for number in range(shape.vocabulary)])
    writer.add_token_merges(["to ken0"])
    writer.add_eos_token_id(0)
    return writer


def _interleaved(weight: Any, heads: int) -> Any:
    """Rows in llama.cpp's order: neighbouring pairs rotate instead of the halves of a head."""
    size = weight.shape[0] // heads
    return weight.reshape(heads, 2, size // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _hub_config(shape: LlamaShape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "vocab_size": shape.vocabulary,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "dtype": "float32",
    }


def _write_tokenizer(directory: Path, shape: LlamaShape) -> None:
    """TRL asks for one even where the rows are tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"token{number}": number for number in range(shape.vocabulary)}
    made = Tokenizer(models.WordLevel(words, unk_token="token0"))
    special = {"pad_token": "token0", "eos_token": "token0", "unk_token": "token0"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(directory)
