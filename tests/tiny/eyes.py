"""Tiny random projectors (mmproj) and language models that see: Gemma 3's kind, and Qwen 2's with M-RoPE.

gemma3_eyes(path)   SigLIP, 16 vectors an image, each read with all of them in view
qwen2_eyes(path)    vectors by the image's size, with a place in rows and columns
llava_eyes(path)    CLIP, 16 vectors an image, read like text
picture(seed), webp(picture)    images
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.tiny import vocabulary

WIDTH, INNER, HEADS, LAYERS = 32, 64, 2, 2  # of the projector
TEXT_WIDTH = 64  # of the language model
PATCH, SIDE = 8, 64
Shapes = dict[str, tuple[int, ...]]


def gemma3_eyes(path: Path, *, seed: int = 0) -> Path:
    writer = _writer(path, "gemma3", SIDE)
    writer.add_uint32("clip.vision.projector.scale_factor", 2)
    shapes = _vit(INNER) | {
        "v.patch_embd.weight": (WIDTH, 3, PATCH, PATCH),
        "v.patch_embd.bias": (WIDTH,),
        "v.position_embd.weight": ((SIDE // PATCH) ** 2, WIDTH),
        "v.post_ln.weight": (WIDTH,),
        "v.post_ln.bias": (WIDTH,),
        "mm.input_projection.weight": (WIDTH, TEXT_WIDTH),
        "mm.soft_emb_norm.weight": (WIDTH,),
    }
    return _finish(writer, path, shapes, seed)


def llava_eyes(path: Path, *, seed: int = 0) -> Path:
    writer = _writer(path, "mlp", SIDE // 2)
    shapes = _vit(INNER) | {
        "v.patch_embd.weight": (WIDTH, 3, PATCH, PATCH),
        "v.position_embd.weight": ((SIDE // 2 // PATCH) ** 2, WIDTH),
        "v.pre_ln.weight": (WIDTH,),
        "v.pre_ln.bias": (WIDTH,),
        "mm.0.weight": (TEXT_WIDTH, WIDTH),
        "mm.0.bias": (TEXT_WIDTH,),
        "mm.2.weight": (TEXT_WIDTH, TEXT_WIDTH),
        "mm.2.bias": (TEXT_WIDTH,),
    }
    return _finish(writer, path, shapes, seed)


def qwen2_eyes(path: Path, *, seed: int = 0) -> Path:
    writer = _writer(path, "qwen2vl_merger", SIDE)
    shapes = _vit(INNER) | {
        "v.patch_embd.weight": (WIDTH, 3, PATCH, PATCH),
        "v.patch_embd.weight.1": (WIDTH, 3, PATCH, PATCH),
        "v.post_ln.weight": (WIDTH,),
        "v.post_ln.bias": (WIDTH,),
        "mm.0.weight": (4 * WIDTH, 4 * WIDTH),
        "mm.0.bias": (4 * WIDTH,),
        "mm.2.weight": (TEXT_WIDTH, 4 * WIDTH),
        "mm.2.bias": (TEXT_WIDTH,),
    }
    return _finish(writer, path, shapes, seed)


def qwen2vl(path: Path, *, seed: int = 0) -> Path:
    """The language model of Qwen2-VL: M-RoPE, with a position in time, row and column."""
    writer = gguf.GGUFWriter(path, "qwen2vl")
    writer.add_context_length(512)
    writer.add_embedding_length(TEXT_WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * TEXT_WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_sections([4, 6, 6, 0])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    tokens = vocabulary.tokens()
    control = [vocabulary.is_control(token) for token in tokens]
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if c else gguf.TokenType.NORMAL for c in control])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges()])
    writer.add_eos_token_id(vocabulary.END_OF_TURN)
    writer.add_chat_template(vocabulary.CHATML)
    shapes: Shapes = {
        "token_embd.weight": (vocabulary.SIZE, TEXT_WIDTH),
        "output_norm.weight": (TEXT_WIDTH,),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for part in ("q", "k", "v"):
            shapes[f"{block}attn_{part}.weight"] = (TEXT_WIDTH, TEXT_WIDTH)
            shapes[f"{block}attn_{part}.bias"] = (TEXT_WIDTH,)
        shapes[f"{block}attn_output.weight"] = (TEXT_WIDTH, TEXT_WIDTH)
        shapes[f"{block}attn_norm.weight"] = shapes[f"{block}ffn_norm.weight"] = (TEXT_WIDTH,)
        for part in ("gate", "up"):
            shapes[f"{block}ffn_{part}.weight"] = (2 * TEXT_WIDTH, TEXT_WIDTH)
        shapes[f"{block}ffn_down.weight"] = (TEXT_WIDTH, 2 * TEXT_WIDTH)
    return _finish(writer, path, shapes, seed)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Of (height, width, 3)."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _png_part(kind, data)
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
    )


def picture(seed: int, width: int = SIDE, height: int = SIDE) -> bytes:
    """A random PNG."""
    return png(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def webp(image: bytes, **options: Any) -> bytes:
    """The same picture, without loss unless the options of Pillow say otherwise."""
    made = io.BytesIO()
    with Image.open(io.BytesIO(image)) as opened:
        opened.save(made, "WEBP", **{"lossless": True, "exact": True, **options})
    return made.getvalue()


def _png_part(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _writer(path: Path, projector: str, side: int) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", projector)
    writer.add_bool("clip.use_gelu", True)
    for key, value in {
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "block_count": LAYERS,
        "projection_dim": TEXT_WIDTH,
        "attention.head_count": HEADS,
        "image_size": side,
        "patch_size": PATCH,
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    return writer


def _vit(inner: int) -> Shapes:
    shapes: Shapes = {}
    for layer in range(LAYERS):
        block = f"v.blk.{layer}."
        for part in ("q", "k", "v", "out"):
            shapes[f"{block}attn_{part}.weight"] = (WIDTH, WIDTH)
            shapes[f"{block}attn_{part}.bias"] = (WIDTH,)
        for part in ("ln1", "ln2"):
            shapes[f"{block}{part}.weight"] = shapes[f"{block}{part}.bias"] = (WIDTH,)
        shapes |= {f"{block}ffn_up.weight": (inner, WIDTH), f"{block}ffn_up.bias": (inner,)}
        shapes |= {f"{block}ffn_down.weight": (WIDTH, inner), f"{block}ffn_down.bias": (WIDTH,)}
    return shapes


def _finish(writer: gguf.GGUFWriter, path: Path, shapes: Shapes, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        n_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        values = rng.standard_normal(shape) * (2 * n_in**-0.5 if len(shape) > 1 else 0.2)
        if name.endswith("weight") and len(shape) == 1:  # of a norm
            values = values + 1
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
