"""A random model of a real one's shape, for measuring speed: written in seconds, says nothing sensible."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.tiny import vocabulary


@dataclass(frozen=True)
class Block:
    """A quantisation type's block: its size, the deviation of evenly spread bytes, its 16-bit scales.

    `scales` is from the byte offset of a scale to its size beside the others.
    """

    elements: int
    bytes: int
    deviation: float
    scales: dict[int, float] = field(default_factory=lambda: {0: 1.0})


BLOCKS = {
    "Q8_0": Block(32, 34, 74.0),
    "Q5_0": Block(32, 22, 9.2),
    "Q4_0": Block(32, 18, 4.6),
    "Q6_K": Block(256, 210, 1364.0, {208: 1.0}),
    "Q4_K": Block(256, 144, 258.0, {0: 1.0, 2: 7.5}),  # the second is of the minima: so the mean becomes 0
}
NARROWER = {"Q6_K": "Q8_0", "Q4_K": "Q5_0"}  # llama.cpp's choice where rows are not whole blocks of 256


@dataclass(frozen=True)
class Shape:
    """Qwen2's dimensions; the defaults are those of its 0.5 B model."""

    hidden: int = 896
    layers: int = 24
    ffn: int = 4864
    heads: int = 14
    kv_heads: int = 2
    vocabulary: int = 151_936
    context: int = 32_768
    quantization: str = "Q8_0"  # or Q4_0, Q5_0, Q4_K_M

    def kind(self, name: str, block: int, n_in: int) -> str:
        """Type of a tensor; of a Q4_K_M file as llama.cpp's quantiser mixes them (`llama-quant.cpp`)."""
        if self.quantization != "Q4_K_M":
            return self.quantization
        eighth = self.layers // 8
        more = block < eighth or block >= 7 * self.layers // 8 or (block - eighth) % 3 == 2
        kind = "Q6_K" if name == "token_embd" or (more and name in ("attn_v", "ffn_down")) else "Q4_K"
        return kind if n_in % 256 == 0 else NARROWER[kind]

    def linears(self) -> dict[str, tuple[int, int]]:
        """Name to (n_out, n_in) of every linear layer of a block."""
        kv = self.hidden // self.heads * self.kv_heads
        return {
            "attn_q": (self.hidden, self.hidden),
            "attn_k": (kv, self.hidden),
            "attn_v": (kv, self.hidden),
            "attn_output": (self.hidden, self.hidden),
            "ffn_gate": (self.ffn, self.hidden),
            "ffn_up": (self.ffn, self.hidden),
            "ffn_down": (self.hidden, self.ffn),
        }


HALF_BILLION = Shape()
SEVEN_BILLION = Shape(
    hidden=3584, layers=28, ffn=18_944, heads=28, kv_heads=4, vocabulary=152_064, quantization="Q4_K_M"
)
SMALL = Shape(hidden=256, layers=4, ffn=768, heads=4, kv_heads=2, vocabulary=8192, context=4096)


def speed_model(path: Path, shape: Shape = HALF_BILLION, *, seed: int = 0, counts: bool = False) -> Path:
    """A Qwen2 GGUF with random weights of the usual size; half a gigabyte by default.

    One that `counts` says after every token the one whose id follows: as slow as any, but predictable. Its
    blocks add nothing to the residual stream, and its head is its embedding, moved by a row.
    """
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    _add_vocabulary(writer, shape.vocabulary)
    embedding = shape.kind("token_embd", 0, shape.hidden)
    rows = _random((shape.vocabulary, shape.hidden), embedding, rng)
    _add(writer, "token_embd", rows, embedding)
    if counts:
        _add(writer, "output", np.roll(rows, 1, axis=0), embedding)
    writer.add_tensor("output_norm.weight", np.ones(shape.hidden, np.float32))
    for block in range(shape.layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{norm}.weight", np.ones(shape.hidden, np.float32))
        for name, size in shape.linears().items():
            kind = shape.kind(name, block, size[1])
            rows = _random(size, kind, rng)
            muted = counts and name in ("attn_output", "ffn_down")
            _add(writer, f"blk.{block}.{name}", rows * np.uint8(not muted), kind)
            if name in ("attn_q", "attn_k", "attn_v"):
                writer.add_tensor(f"blk.{block}.{name}.bias", np.zeros(size[0], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def speed_lora(path: Path, shape: Shape = HALF_BILLION, *, rank: int = 16, seed: int = 1) -> Path:
    """A random F16 LoRA on every linear layer of such a model."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for block in range(shape.layers):
        for name, (n_out, n_in) in shape.linears().items():
            a = rng.standard_normal((rank, n_in), np.float32) * n_in**-0.5
            b = rng.standard_normal((n_out, rank), np.float32) * 0.3 * rank**-0.5
            writer.add_tensor(f"blk.{block}.{name}.weight.lora_a", a.astype(np.float16))
            writer.add_tensor(f"blk.{block}.{name}.weight.lora_b", b.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Every byte, so that any text can be a prompt, and as many made-up words as the shape asks for."""
    known = vocabulary.tokens()
    tokens = known + [f"word{number}" for number in range(size - len(known))]
    control = [vocabulary.is_control(token) for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if c else gguf.TokenType.NORMAL for c in control])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges()])
    writer.add_eos_token_id(vocabulary.END_OF_TURN)
    writer.add_chat_template(vocabulary.CHATML)


def _random(size: tuple[int, int], kind: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blocks made directly, (n_out, bytes): quantising half a billion floats would take a minute."""
    n_out, n_in = size
    block = BLOCKS[kind]
    blocks: NDArray[np.uint8] = rng.integers(0, 256, (n_out, n_in // block.elements, block.bytes), np.uint8)
    for offset, size_beside in block.scales.items():
        scale = size_beside * n_in**-0.5 / block.deviation
        blocks[:, :, offset : offset + 2] = np.array([scale], np.float16).view(np.uint8)
    return blocks.reshape(n_out, -1)


def _add(writer: gguf.GGUFWriter, name: str, rows: NDArray[np.uint8], kind: str) -> None:
    writer.add_tensor(f"{name}.weight", rows, raw_dtype=gguf.GGMLQuantizationType[kind])
