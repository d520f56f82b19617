"""Adapter files against a real model: what is refused, what is proved to be used."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from llamaleon_server.binding.adapters import AdapterLoader
from llamaleon_server.binding.batch import Batch
from llamaleon_server.binding.errors import AdapterError
from llamaleon_server.binding.loading import Loaded

Tensors = dict[str, NDArray[np.generic]]


def write(
    path: Path, tensors: Tensors, *, architecture: str, alpha: object = 4.0, kind: str = "adapter"
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    if isinstance(alpha, float):
        writer.add_float32("adapter.lora.alpha", alpha)
    else:
        writer.add_uint32("adapter.lora.alpha", int(str(alpha)))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def pair(target: str, n_in: int, n_out: int, rank: int = 4, dtype: type = np.float32) -> Tensors:
    rng = np.random.default_rng(1)
    return {
        f"{target}.lora_a": rng.standard_normal((rank, n_in)).astype(dtype),
        f"{target}.lora_b": rng.standard_normal((n_out, rank)).astype(dtype),
    }


def embedding(n_vocab: int, n_embd: int, rank: int = 4) -> Tensors:
    """Of an embedding, A holds a row per token and B is not turned round."""
    rng = np.random.default_rng(2)
    return {
        "token_embd.weight.lora_a": rng.standard_normal((n_vocab, rank)).astype(np.float32),
        "token_embd.weight.lora_b": rng.standard_normal((n_embd, rank)).astype(np.float32),
    }


def logits(loaded: Loaded, adapters: tuple[tuple[int, float], ...]) -> NDArray[np.float32]:
    loaded.context.use_adapters(adapters)
    loaded.context.remove(0)
    batch = Batch(8)
    batch.add([1, 300, 301, 302], 0, 0, 4)
    assert loaded.context.decode(batch)
    return loaded.context.logits(4).copy()


def test_every_linear_layer_is_used(loaded: Loaded, tmp_path: Path) -> None:
    tensors: Tensors = {}
    for name, info in loaded.model.header.tensors.items():
        if name.startswith("blk.") and len(info.shape) == 2:
            tensors |= pair(name, info.shape[0], info.shape[1])
    adapter = AdapterLoader(loaded.model).load(write(tmp_path / "a.gguf", tensors, architecture="llama"))
    assert (adapter.rank, adapter.tensors) == (4, len(tensors))
    plain = logits(loaded, ())
    assert np.abs(logits(loaded, ((adapter.handle, 1.0),)) - plain).max() > 0.1
    assert np.array_equal(logits(loaded, ()), plain)


def test_one_ignored_tensor_among_good_ones_is_named(loaded: Loaded, tmp_path: Path) -> None:
    tensors = pair("blk.0.attn_q.weight", 64, 64) | pair("blk.3.ffn_norm.weight", 64, 1)
    path = write(tmp_path / "a.gguf", tensors, architecture="llama")
    loader = AdapterLoader(loaded.model)
    for _ in range(2):  # also when attn_q is known already
        with pytest.raises(AdapterError, match=r"blk\.3\.ffn_norm\.weight\.lora_a' would be ignored"):
            loader.load(path)


def test_a_tied_embedding_or_head_is_refused_and_the_process_lives(tied: Loaded, tmp_path: Path) -> None:
    loader = AdapterLoader(tied.model)
    path = write(tmp_path / "e.gguf", embedding(512, 64), architecture="qwen2")
    with pytest.raises(AdapterError, match="shares with its output head"):
        loader.load(path)
    path = write(tmp_path / "h.gguf", pair("output.weight", 64, 512), architecture="qwen2")
    with pytest.raises(AdapterError, match="shares with its embedding"):
        loader.load(path)


def test_what_llama_cpp_would_abort_on_is_refused(tied: Loaded, tmp_path: Path) -> None:
    loader, good = AdapterLoader(tied.model), pair("blk.0.attn_q.weight", 64, 64)
    path = write(tmp_path / "alpha.gguf", good, architecture="qwen2", alpha=4)
    with pytest.raises(AdapterError, match="not a 32-bit float"):
        loader.load(path)
    path = write(tmp_path / "nan.gguf", good, architecture="qwen2", alpha=float("nan"))
    with pytest.raises(AdapterError, match=r"`adapter\.lora\.alpha` is nan"):
        loader.load(path)
    path = write(
        tmp_path / "type.gguf", pair("blk.0.attn_q.weight", 64, 64, dtype=np.float64), architecture="qwen2"
    )
    with pytest.raises(AdapterError, match="has type F64"):
        loader.load(path)
    path = write(tmp_path / "kind.gguf", good, architecture="qwen2", kind="model")
    with pytest.raises(AdapterError, match=r"general\.type"):
        loader.load(path)
    assert loader.load(write(tmp_path / "good.gguf", good, architecture="qwen2")).rank == 4
