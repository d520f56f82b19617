"""`check_lora`: a GGUF LoRA from anywhere is served only with a base it fits; and its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest
from tests.lora import random_lora
from tests.tiny import plain

from llamaleon_convert import ConvertError, Refused, check_lora, convert
from llamaleon_convert.header import read_header
from llamaleon_convert.manifest import (
    BaseFingerprint,
    differences,
    fingerprint,
    manifest_of,
    read_manifest,
    sha256_file,
)

Tensors = dict[str, Any]
Q = "blk.0.attn_q.weight"


def write_lora(path: Path, tensors: Tensors, *, architecture: str = "qwen2", **keys: Any) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    fields = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0, **keys}
    for key, value in fields.items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            writer.add_string(key, value)
    for name, array in tensors.items():
        writer.add_tensor(name, np.asarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def pair(target: str = Q, *, n_in: int = plain.HIDDEN, n_out: int = plain.HIDDEN, rank: int = 2) -> Tensors:
    return {f"{target}.lora_a": np.ones((rank, n_in)), f"{target}.lora_b": np.ones((n_out, rank))}


def test_converted_adapter_fits_its_base(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    made = convert(plain.write_peft(tmp_path / "peft"), base, tmp_path / "adapter.gguf")
    checked = check_lora(tmp_path / "adapter.gguf", read_header(base))
    assert checked == made
    assert made.base == fingerprint(base)
    assert made.sha256 == sha256_file(tmp_path / "adapter.gguf")
    assert (made.rank, made.alpha, made.source) == (plain.RANK, 8.0, "peft")
    assert made.target_tensors == sorted(f"blk.0.{name}.weight" for name in plain.LAYER)


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    base, peft_dir = plain.write_base(tmp_path / "base.gguf"), plain.write_peft(tmp_path / "peft")
    first = convert(peft_dir, base, tmp_path / "a.gguf")
    assert convert(peft_dir, base, tmp_path / "b.gguf").sha256 == first.sha256
    stronger = convert(peft_dir, base, tmp_path / "c.gguf", scale=2.0)
    assert stronger.sha256 != first.sha256
    assert stronger.alpha == 16.0


def test_manifest_file_round_trip(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    peft_dir = plain.write_peft(tmp_path / "peft", base_model_name_or_path="org/Modelo-Ñ")
    manifest = convert(peft_dir, base, tmp_path / "adapter.gguf")
    assert manifest.training == {"base_model_name_or_path": "org/Modelo-Ñ"}
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    assert read_manifest(tmp_path / "manifest.json") == manifest
    assert json.loads((tmp_path / "manifest.json").read_text())["base"]["architecture"] == "qwen2"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "weights_sha256"),
        ({"tokenizer__chat_template": "{{ other }}"}, "chat_template_sha256"),
        ({"tokenizer__ggml__pre": "other"}, "tokenizer_sha256"),
    ],
)
def test_wrong_base_names_the_field(change: dict[str, Any], field: str, tmp_path: Path) -> None:
    base, other = plain.write_base(tmp_path / "base.gguf"), plain.write_base(tmp_path / "o.gguf", **change)
    convert(plain.write_peft(tmp_path / "peft"), base, tmp_path / "adapter.gguf")
    with pytest.raises(Refused, match=f"another base than o.gguf: {field}: expected"):
        check_lora(tmp_path / "adapter.gguf", read_header(other))


def test_another_quantisation_of_the_same_model_is_the_same_base() -> None:
    fields: dict[str, Any] = {
        "architecture": "llama",
        "embedding_length": 8,
        "block_count": 1,
        "vocab_size": 3,
        "tokenizer_sha256": "t",
        "chat_template_sha256": None,
        "vectors_sha256": "norms",
    }
    half = BaseFingerprint(**fields, weights_sha256="1", quantisation_sha256="F16")
    eight = BaseFingerprint(**fields, weights_sha256="2", quantisation_sha256="Q8_0")
    tuned = BaseFingerprint(**fields, weights_sha256="3", quantisation_sha256="F16")
    fields["vectors_sha256"] = "other norms"
    foreign = BaseFingerprint(**fields, weights_sha256="4", quantisation_sha256="Q8_0")
    assert differences(half, half) == []
    assert differences(half, eight) == []
    assert differences(half, tuned) == ["weights_sha256: expected '1', found '3'"]
    assert differences(half, foreign) == ["weights_sha256: expected '1', found '4'"]


def test_foreign_lora_without_origin_is_checked_by_shape(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    manifest = check_lora(random_lora(base, tmp_path / "lora.gguf", seed=0), read_header(base))
    assert (manifest.base, manifest.source, manifest.rank) == (None, "gguf", 4)
    assert Q in manifest.target_tensors


@pytest.mark.parametrize(
    ("tensors", "keys", "message"),
    [
        (pair(), {"architecture": "llama"}, "architecture: the adapter is for 'llama'"),
        (pair(), {"general.type": "model"}, "not a LoRA adapter"),
        (pair(), {"adapter.type": "control_vector"}, "not a LoRA adapter"),
        (pair(), {"adapter.lora.alpha": None}, "`adapter.lora.alpha` is missing"),
        (pair(), {"adapter.lora.alpha": float("nan")}, "alpha is nan"),
        (pair(), {"adapter.alora.invocation_tokens": [1, 2]}, "aLoRA"),
        (pair(), {"llamaleon.base.architecture": "qwen2"}, "keys are damaged"),
        ({}, {}, "holds no LoRA tensors"),
        ({**pair(), "blk.0.extra.weight": np.ones((4, 4))}, {}, "unexpected tensor 'blk.0.extra.weight'"),
        ({**pair(), f"{Q}x.lora_a": np.ones((2, 16))}, {}, "has no lora_b beside it"),
        (
            pair("blk.9.attn_q.weight"),
            {},
            "no tensor 'blk.9.attn_q.weight': Was the adapter made for another",
        ),
        (pair("output.weight", n_out=24), {}, "ties its embedding to its output head"),
        (pair("token_embd.weight", n_out=24), {}, "ties its embedding to its output head"),
        (pair("blk.0.attn_norm.weight", n_out=1), {}, "applies no LoRA to 'blk.0.attn_norm.weight'"),
        (pair(n_in=8), {}, r"lora_a \(8, 2\) and lora_b \(2, 16\) do not fit"),
        (pair(n_out=8), {}, "do not fit"),
        ({**pair(), f"{Q}.lora_b": np.ones((16, 3))}, {}, "do not fit"),
        ({**pair(), f"{Q}.lora_b": np.full((16, 2), np.inf)}, {}, "holds NaN or infinite"),
        ({**pair(), f"{Q}.lora_a": np.full((2, 16), np.nan)}, {}, "holds NaN or infinite"),
    ],
)
def test_refusals(tensors: Tensors, keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    path = write_lora(tmp_path / "lora.gguf", tensors, **keys)
    with pytest.raises(ConvertError, match=message):
        check_lora(path, read_header(base))


def test_plain_pair_is_accepted(tmp_path: Path) -> None:
    """The refusals above are of what they change, not of the file they start from."""
    base = plain.write_base(tmp_path / "base.gguf")
    assert check_lora(write_lora(tmp_path / "l.gguf", pair()), read_header(base)).target_tensors == [Q]


def test_base_is_no_adapter(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    with pytest.raises(Refused, match="A base model is added with"):
        manifest_of(base)


def test_a_block_whose_scale_is_no_number_is_refused(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    path = random_lora(base, tmp_path / "lora.gguf", seed=0, targets=["ffn_down"], dtype="Q8_0")
    check_lora(path, read_header(base))
    tensor = read_header(path).tensors["blk.0.ffn_down.weight.lora_a"]
    assert tensor.type == "Q8_0"
    content = bytearray(path.read_bytes())
    content[tensor.offset : tensor.offset + 2] = np.float16(np.nan).tobytes()
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"'blk\.0\.ffn_down\.weight\.lora_a' holds NaN or infinite values"):
        check_lora(path, read_header(base))
