"""What GGUF cannot express, and what does not fit, is refused with the reason; nothing is written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.tiny import plain

from llamaleon_convert import ConvertError, Refused, combine, convert

Q = "base_model.model.model.layers.0.self_attn.q_proj"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def refused(peft_dir: Path, base: Path, message: str, kind: type[ConvertError] = Refused) -> None:
    out = peft_dir.parent / "out.gguf"
    with pytest.raises(kind, match=message):
        convert(peft_dir, base, out)
    assert not out.exists()
    assert not list(peft_dir.parent.glob(".out.gguf*")), "no temporary file stays behind"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "DoRA.*merge_and_unload"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save.*merge_and_unload"),
        ({"lora_bias": True}, "lora_bias.*merge_and_unload"),
        ({"bias": "all"}, "`bias` is 'all'"),
        ({"bias": "lora_only"}, "`bias` is 'lora_only'"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, "trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "aLoRA"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"use_bdlora": {"nblocks": 2}}, "block-diagonal"),
        ({"arrow_config": {"top_k": 2}}, "Arrow"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"monteclora_config": {"num_samples": 2}}, "MonteCLoRA"),
        ({"velora_config": {"scale": 1.0}}, "VeLoRA"),
        ({"some_new_variant": True}, "`some_new_variant`.*unknown here"),
        *(
            ({"init_lora_weights": init}, "path_initial_model_for_weight_conversion")
            for init in ("pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga", "kasa")
        ),
        *(
            ({"peft_type": kind}, f"peft_type is '{kind}'; only LORA")
            for kind in (
                "PROMPT_TUNING",
                "PREFIX_TUNING",
                "P_TUNING",
                "IA3",
                "ADALORA",
                "LOHA",
                "OFT",
                "VERA",
            )
        ),
    ],
)
def test_config(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    refused(plain.write_peft(tmp_path / "peft", **config), base, message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 0}, "`r` is 0, not a positive number"),
        ({"lora_alpha": None}, "`lora_alpha` is None"),
        ({"lora_alpha": 0}, "`lora_alpha` is 0"),
        ({"rank_pattern": ["q_proj"]}, "`rank_pattern` is not an object"),
        ({"rank_pattern": {"q_proj": "8"}}, "`q_proj` is '8'"),
        ({"alpha_pattern": {"(": 8}}, r"bad pattern '\('"),
    ],
)
def test_damaged_config(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    refused(plain.write_peft(tmp_path / "peft", **config), base, message, ConvertError)


def test_initialisations_that_keep_the_base_are_accepted(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    for init in (True, False, "gaussian", "eva", "orthogonal", "mica"):
        convert(plain.write_peft(tmp_path / "peft", init_lora_weights=init), base, tmp_path / "out.gguf")


def test_every_field_of_pefts_config_is_known(tmp_path: Path) -> None:
    """A plain LoRA saved by the installed PEFT converts: none of its default settings is unknown here."""
    import peft  # seconds, and torch: the other tests of this file do without

    config = peft.LoraConfig(r=plain.RANK, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    base = plain.write_base(tmp_path / "base.gguf")
    directory = plain.write_peft(tmp_path / "peft")
    config.save_pretrained(str(directory))
    assert convert(directory, base, tmp_path / "out.gguf").rank == plain.RANK


def damage(directory: Path, name: str, content: str | bytes | None) -> Path:
    path = directory / name
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return directory


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_config.json", None, "there is no adapter_config.json"),
        ("adapter_config.json", "{", "cannot be read as JSON"),
        ("adapter_config.json", LFS, "git lfs pull"),
        ("adapter_config.json", "[]", "not a JSON object"),
        ("adapter_config.json", b"\xff\xfe", "cannot be read"),
        ("adapter_model.safetensors", None, "no adapter_model.safetensors"),
        ("adapter_model.safetensors", LFS, "git lfs pull"),
        ("adapter_model.safetensors", b"", "truncated"),
        ("adapter_model.safetensors", struct.pack("<Q", 1 << 40) + b"{}", "truncated"),
        ("adapter_model.safetensors", struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        ("adapter_model.safetensors", struct.pack("<Q", 2) + b"{x", "not JSON"),
        ("adapter_model.safetensors", struct.pack("<Q", 2) + b"{}", "holds no LoRA tensors"),
        ("adapter_model.safetensors", struct.pack("<Q", 8) + b'{"a": 1}', "row of tensor 'a' is damaged"),
    ],
)
def test_damaged_files(name: str, content: str | bytes | None, message: str, tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    refused(damage(plain.write_peft(tmp_path / "peft"), name, content), base, message, ConvertError)


def test_pickled_weights(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    directory = plain.write_peft(tmp_path / "peft")
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    refused(directory, base, "a pickle.*safe_serialization=True", ConvertError)


def test_a_full_model_is_not_an_adapter(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    directory = damage(plain.write_peft(tmp_path / "peft"), "adapter_config.json", None)
    (directory / "config.json").write_text("{}")
    refused(directory, base, "full model, not an adapter", ConvertError)
    refused(tmp_path / "nowhere", base, "not a directory", ConvertError)


def test_truncated_safetensors(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    whole = (plain.write_peft(tmp_path / "peft") / "adapter_model.safetensors").read_bytes()
    for length in range(0, len(whole), 97):
        directory = damage(plain.write_peft(tmp_path / "peft"), "adapter_model.safetensors", whole[:length])
        refused(directory, base, "truncated|not JSON", ConvertError)


def renamed(old: str, new: str) -> Callable[[plain.Tensors], None]:
    def change(tensors: plain.Tensors) -> None:
        tensors[new] = tensors.pop(old)

    return change


def added(name: str, *shape: int) -> Callable[[plain.Tensors], None]:
    def change(tensors: plain.Tensors) -> None:
        tensors[name] = np.zeros(shape, np.float32)

    return change


def filled(value: float) -> Callable[[plain.Tensors], None]:
    def change(tensors: plain.Tensors) -> None:
        tensors[f"{Q}.lora_B.weight"][3, 1] = value

    return change


LAYER = "base_model.model.model.layers.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (filled(np.nan), "1 NaN or infinite.*lower learning rate"),
        (filled(-np.inf), "1 NaN or infinite"),
        (added(f"{Q}.lora_magnitude_vector", 16), "DoRA"),
        (added(f"{Q}.lora_B.bias", 16), "no place for biases"),
        (
            added("base_model.model.model.embed_tokens.weight", 24, 16),
            "resized vocabulary or `modules_to_save`",
        ),
        (added("base_model.model.lm_head.weight", 24, 16), "resized vocabulary or `modules_to_save`"),
        (added("base_model.model.lm_head.modules_to_save.weight", 24, 16), "modules_to_save"),
        (added("base_model.model.prompt_embeddings", 8, 16), "no part of a plain LoRA"),
        (added("prompt_embeddings", 8, 16), "keys begin with `base_model.model.`"),
        (renamed(f"{Q}.lora_A.weight", "model.q.lora_A.weight"), "keys begin with `base_model.model.`"),
        (
            renamed(f"{Q}.lora_A.weight", f"{LAYER}.input_layernorm.lora_A.weight"),
            "no counterpart in a qwen2 GGUF",
        ),
        (renamed(f"{Q}.lora_A.weight", f"{LAYER}.self_attn.rotary.lora_A.weight"), "no counterpart"),
        (
            renamed(f"{Q}.lora_A.weight", Q.replace("layers.0", "layers.7") + ".lora_A.weight"),
            "blk.7.attn_q.weight.*another base",
        ),
        (
            renamed(f"{Q}.lora_A.weight", f"{LAYER}.self_attn.k_proj.lora_A.weight"),
            "blk.0.attn_k.weight.*another",
        ),
        (
            added("base_model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight", 4, 16),
            "vision_tower.*no counterpart",
        ),
        (added("base_model.model.model.embed_tokens.lora_embedding_A", 4, 24), "ties its embedding"),
        (added("base_model.model.lm_head.lora_A.weight", 4, 16), "ties its embedding"),
    ],
)
def test_tensors(change: Callable[[plain.Tensors], None], message: str, tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    tensors = plain.lora_tensors()
    change(tensors)
    refused(plain.write_peft(tmp_path / "peft", tensors), base, message)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_only_numbers_that_are_not_finite_are_refused(dtype: type[np.floating[Any]], tmp_path: Path) -> None:
    """The largest numbers share the byte by which the others are noticed first."""
    base, largest = plain.write_base(tmp_path / "base.gguf"), np.finfo(dtype).max
    for value in (np.nan, np.inf, -np.inf, largest, -largest, np.finfo(dtype).smallest_subnormal):
        tensors = {name: array.astype(dtype) for name, array in plain.lora_tensors().items()}
        filled(float(value))(tensors)
        peft_dir, out = plain.write_peft(tmp_path / "peft", tensors), tmp_path / "out.gguf"
        if not np.isfinite(value):
            refused(peft_dir, base, "1 NaN or infinite")
            continue
        convert(peft_dir, base, out)
        (written,) = (one for one in gguf.GGUFReader(out).tensors if one.name == "blk.0.attn_q.weight.lora_b")
        assert written.data.dtype == dtype
        assert written.data[3, 1] == dtype(value)


def test_half_a_pair(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    tensors = plain.lora_tensors()
    del tensors[f"{Q}.lora_B.weight"]
    refused(plain.write_peft(tmp_path / "peft", tensors), base, "q_proj' has no lora_B", ConvertError)


def test_integer_weights(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    directory = plain.write_peft(tmp_path / "peft")
    tensors: dict[str, Any] = {key: value.astype(np.int8) for key, value in plain.lora_tensors().items()}
    save_file(tensors, directory / "adapter_model.safetensors")
    refused(directory, base, "is I8; weights must be")


def test_shapes_name_both_sides(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    tensors = plain.lora_tensors()
    tensors[f"{Q}.lora_A.weight"] = np.zeros((plain.RANK, 99), np.float32)
    refused(
        plain.write_peft(tmp_path / "peft", tensors), base, "maps 99 to 16 .* maps 16 to 16.*another base"
    )


def test_rank_that_contradicts_the_config(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    refused(plain.write_peft(tmp_path / "peft", r=8), base, "says rank 8 .* have rank 4")


def test_two_modules_for_one_tensor(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    tensors = plain.lora_tensors()
    for half in "AB":
        twin = f"{Q}.lora_{half}.weight".replace("model.layers", "model.language_model.layers")
        tensors[twin] = tensors[f"{Q}.lora_{half}.weight"]
    refused(plain.write_peft(tmp_path / "peft", tensors), base, "are the same tensor 'blk.0.attn_q.weight'")


def test_unknown_architecture(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf", architecture="mamba")
    refused(
        plain.write_peft(tmp_path / "peft"), base, "'mamba' is not supported; supported are gemma, gemma2"
    )


def test_base_that_is_no_model(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    convert(plain.write_peft(tmp_path / "peft"), base, tmp_path / "adapter.gguf")
    refused(tmp_path / "peft", tmp_path / "adapter.gguf", "an adapter, not a base model")
    refused(tmp_path / "peft", tmp_path / "none.gguf", "No such file", ConvertError)


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_scale_without_meaning(scale: float, tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    with pytest.raises(ConvertError, match="scale is"):
        convert(plain.write_peft(tmp_path / "peft"), base, tmp_path / "out.gguf", scale=scale)


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    with pytest.raises(ConvertError, match="cannot be written"):
        convert(plain.write_peft(tmp_path / "peft"), base, tmp_path / "no" / "such" / "out.gguf")


def test_saved_copy_of_the_embedding_proves_the_base(tmp_path: Path) -> None:
    """PEFT saves the embedding beside a LoRA on it; on another base of the same shape it does not match."""
    base = plain.write_base(tmp_path / "base.gguf", tied=False)
    other = plain.write_base(tmp_path / "other.gguf", tied=False, seed=1)
    embed = "base_model.model.model.embed_tokens"
    tensors = plain.lora_tensors()
    tensors[f"{embed}.lora_embedding_A"] = np.ones((plain.RANK, plain.VOCABULARY), np.float32)
    tensors[f"{embed}.lora_embedding_B"] = np.ones((plain.HIDDEN, plain.RANK), np.float32)
    tensors[f"{embed}.base_layer.weight"] = plain.tensor_of(base, "token_embd.weight")
    directory = plain.write_peft(tmp_path / "peft", tensors)
    assert "token_embd.weight" in convert(directory, base, tmp_path / "fine.gguf").target_tensors
    refused(directory, other, "base_layer.weight' is not 'token_embd.weight' of other.gguf")
    tensors[f"{embed}.base_layer.weight"] = np.ones((plain.VOCABULARY + 8, plain.HIDDEN), np.float32)
    refused(plain.write_peft(tmp_path / "peft", tensors), base, r"\(32, 16\).*resized vocabulary")


def test_no_file_of_the_base_is_overwritten(tmp_path: Path) -> None:
    base = plain.write_base(tmp_path / "base.gguf")
    whole = base.read_bytes()
    with pytest.raises(ConvertError, match=r"base\.gguf: the base itself\. Write to another file"):
        convert(plain.write_peft(tmp_path / "peft"), base, base)
    lora = tmp_path / "lora.gguf"
    convert(tmp_path / "peft", base, lora)
    with pytest.raises(ConvertError, match="the base itself"):
        combine(base, [(lora, 1.0)], base)
    assert base.read_bytes() == whole
