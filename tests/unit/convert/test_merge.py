"""A merged model computes what its base computes with the adapters served; everything else stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests import tiny
from tests.lora import random_lora
from tests.tiny import plain, reference
from tests.tiny.adapters import make_adapter
from tests.unit.convert.test_numeric import MAX_KL, TOKENS

from llamaleon_convert import ConvertError, Refused, convert, merge
from llamaleon_convert.header import read_header
from llamaleon_convert.model_writer import write_model
from llamaleon_convert.tensors import read_rows
from llamaleon_server.binding.errors import BindingError
from llamaleon_server.binding.imatrix import read_imatrix
from llamaleon_server.binding.quantize import quantize

WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512}


def adapters_of(base: tiny.TinyModel, directory: Path, **lora: Any) -> list[tuple[Path, float]]:
    """A GGUF LoRA at 0.7, and a PEFT directory at -0.4."""
    first = make_adapter(base, directory / "first", seed=1, **lora)
    second = make_adapter(base, directory / "second", seed=2, use_rslora=True, r=3)
    convert(first.directory, base.gguf, directory / "first.gguf")
    return [(directory / "first.gguf", 0.7), (second.directory, -0.4)]


def served(base: tiny.TinyModel, adapters: list[tuple[Path, float]], directory: Path) -> Any:
    convert(adapters[1][0], base.gguf, directory / "second.gguf")
    with reference.open_model(base.gguf) as model:
        assert reference.mean_kl(model.logits(TOKENS, adapters[:1]), model.logits(TOKENS)) > 1e-3
        return model.logits(TOKENS, [adapters[0], (directory / "second.gguf", adapters[1][1])])


@pytest.mark.parametrize(
    "family", ["llama", "gemma3", "starcoder2", "mixtral", "gpt-oss", "granitehybrid", "qwen35"]
)
def test_merged_is_served(family: str, tmp_path: Path) -> None:
    base = tiny.make(family, tmp_path)
    adapters = adapters_of(base, tmp_path)
    expected = served(base, adapters, tmp_path)
    done = merge(base.gguf, adapters, tmp_path / "merged.gguf")
    assert done.widened == {}
    assert reference.mean_kl(expected, reference.llama_logits(tmp_path / "merged.gguf", TOKENS)) <= MAX_KL


def test_embedding_and_head(tmp_path: Path) -> None:
    base = tiny.make("qwen2", tmp_path, tie_word_embeddings=False)
    adapters = adapters_of(base, tmp_path, target_modules=["embed_tokens", "lm_head"])
    expected = served(base, adapters, tmp_path)
    merge(base.gguf, adapters, tmp_path / "merged.gguf")
    assert reference.mean_kl(expected, reference.llama_logits(tmp_path / "merged.gguf", TOKENS)) <= MAX_KL


@pytest.mark.parametrize(
    ("file_type", "touched", "largest_kl"),
    [("F16", "F16", 1e-5), ("BF16", "BF16", 2e-3), ("Q8_0", "Q8_0", 2e-3), ("Q4_0", "Q4_0", 0.5)],
)
def test_types_are_kept(file_type: str, touched: str, largest_kl: float, tmp_path: Path) -> None:
    """What is lost is one more rounding to the type; in full precision nothing is."""
    base = tiny.make("llama", tmp_path, file_type=file_type, **WIDE)
    full = tiny.make("llama", tmp_path / "full", **WIDE)
    adapters = adapters_of(full, tmp_path)
    expected = served(base, adapters, tmp_path)
    done = merge(base.gguf, adapters, tmp_path / "merged.gguf")
    before, after = read_header(base.gguf).tensors, read_header(tmp_path / "merged.gguf").tensors
    assert {name: tensor.type for name, tensor in after.items()} == {
        name: tensor.type for name, tensor in before.items()
    }
    assert after["blk.0.attn_q.weight"].type == touched
    assert done.tensors == 14
    actual = reference.llama_logits(tmp_path / "merged.gguf", TOKENS)
    assert reference.mean_kl(expected, actual) < largest_kl
    wide = merge(base.gguf, adapters, tmp_path / "wide.gguf", widen=True)
    assert set(wide.widened.values()) == {touched}
    actual = reference.llama_logits(tmp_path / "wide.gguf", TOKENS)
    assert reference.mean_kl(expected, actual) < (1e-2 if file_type.startswith("Q") else 1e-4)


def test_a_quantised_base_goes_back_to_its_own_types(tmp_path: Path) -> None:
    base = tiny.make("llama", tmp_path, file_type="Q4_K_M", **WIDE)
    adapters = adapters_of(tiny.make("llama", tmp_path / "full", **WIDE), tmp_path)
    expected = served(base, adapters, tmp_path)
    done = merge(base.gguf, adapters, tmp_path / "wide.gguf")
    assert set(done.widened.values()) == {"Q4_K", "Q6_K"}
    quantize(tmp_path / "wide.gguf", tmp_path / "merged.gguf", "same", like=base.gguf, threads=1)
    before, after = read_header(base.gguf), read_header(tmp_path / "merged.gguf")
    assert {name: tensor.type for name, tensor in after.tensors.items()} == {
        name: tensor.type for name, tensor in before.tensors.items()
    }
    same = [name for name in before.tensors if name not in done.widened]
    assert same
    for name in same:
        one, two = before.tensors[name], after.tensors[name]
        np.testing.assert_array_equal(
            np.fromfile(one.file, np.uint8, one.nbytes, offset=one.offset),
            np.fromfile(two.file, np.uint8, two.nbytes, offset=two.offset),
        )
    actual = reference.llama_logits(tmp_path / "merged.gguf", TOKENS)
    base_logits = reference.llama_logits(base.gguf, TOKENS)
    assert reference.mean_kl(expected, actual) < reference.mean_kl(expected, base_logits) / 4
    assert reference.mean_kl(expected, reference.llama_logits(tmp_path / "wide.gguf", TOKENS)) < 1e-2


@pytest.mark.parametrize("kind", ["q8_0", "Q5_K_M", "iq4_xs", "q3_k_s", "f16", "tq2_0"])
def test_any_quantisation(kind: str, tmp_path: Path) -> None:
    base = tiny.make("qwen2", tmp_path, **WIDE)
    adapters = adapters_of(base, tmp_path)
    merge(base.gguf, adapters, tmp_path / "merged.gguf")
    quantize(tmp_path / "merged.gguf", tmp_path / "out.gguf", kind, threads=1)
    header = read_header(tmp_path / "out.gguf")
    expected = {"q5_k_m": "Q5_K", "q3_k_s": "Q3_K"}.get(kind.lower(), kind.upper())
    assert header.tensors["blk.0.attn_q.weight"].type == expected
    assert np.isfinite(reference.llama_logits(tmp_path / "out.gguf", TOKENS)).all()


def test_the_smallest_types_take_an_importance_matrix(tmp_path: Path) -> None:
    base = tiny.make("qwen2", tmp_path, **WIDE)
    header, rng = read_header(base.gguf), np.random.default_rng(0)
    writer = gguf.GGUFWriter(tmp_path / "imatrix.gguf", "")
    writer.add_type("imatrix")
    for name, tensor in header.tensors.items():
        if len(tensor.shape) == 2:
            writer.add_tensor(f"{name}.in_sum2", rng.random((1, tensor.shape[0]), dtype=np.float32) ** 4 * 80)
            writer.add_tensor(f"{name}.counts", np.full((1, 1), 80, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    importance = read_imatrix(tmp_path / "imatrix.gguf")["blk.0.attn_q.weight"]
    assert importance.shape == (256,)
    assert 0 <= importance.min() < importance.max() <= 1
    for kind, imatrix in (
        ("iq2_xxs", tmp_path / "imatrix.gguf"),
        ("q4_k_m", None),
        ("q4_k_m", tmp_path / "imatrix.gguf"),
    ):
        quantize(base.gguf, tmp_path / f"{kind}-{imatrix is None}.gguf", kind, imatrix=imatrix, threads=1)
    small = read_header(tmp_path / "iq2_xxs-False.gguf").tensors["blk.0.attn_q.weight"]
    assert small.type == "IQ2_XXS"
    whole = read_rows(header.tensors["blk.0.attn_q.weight"])
    without, weighed = (
        read_rows(read_header(tmp_path / f"q4_k_m-{absent}.gguf").tensors["blk.0.attn_q.weight"])
        for absent in (True, False)
    )
    assert ((weighed - whole) ** 2 * importance).sum() < ((without - whole) ** 2 * importance).sum()
    with pytest.raises(BindingError, match="not an importance matrix"):
        quantize(base.gguf, tmp_path / "out.gguf", "q8_0", imatrix=base.gguf)


@pytest.mark.parametrize("family", ["llama", "gpt-oss"])
def test_a_few_rows_at_a_time(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces do not show in the result; experts are never crossed."""
    base = tiny.make(family, tmp_path)
    adapters = adapters_of(base, tmp_path)
    merge(base.gguf, adapters, tmp_path / "whole.gguf")
    monkeypatch.setattr("llamaleon_convert.tensors.CHUNK_BYTES", 7 * 4 * 64)
    merge(base.gguf, adapters, tmp_path / "pieces.gguf")
    one, two = (read_header(tmp_path / f"{name}.gguf").tensors for name in ("whole", "pieces"))
    for name, tensor in one.items():
        np.testing.assert_allclose(read_rows(tensor), read_rows(two[name]), atol=1e-6)


def test_a_model_in_parts(tmp_path: Path) -> None:
    base = tiny.make("llama", tmp_path)
    reader = gguf.GGUFReader(base.gguf)
    writer = gguf.GGUFWriter(tmp_path / "parts.gguf", "llama", split_max_tensors=5)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (first,) = tmp_path.glob("parts-00001-of-*.gguf")
    done = merge(first, [(make_adapter(base, tmp_path / "third").directory, 1.0)], tmp_path / "merged.gguf")
    merge(base.gguf, [(tmp_path / "third", 1.0)], tmp_path / "expected.gguf")
    assert done.tensors == 14
    assert "split.count" not in read_header(tmp_path / "merged.gguf")
    expected = reference.llama_logits(tmp_path / "expected.gguf", TOKENS)
    np.testing.assert_array_equal(reference.llama_logits(tmp_path / "merged.gguf", TOKENS), expected)


def test_metadata_and_tokenizer_stay(tmp_path: Path) -> None:
    base = tiny.make("llama", tmp_path)
    adapters = adapters_of(base, tmp_path)
    merge(base.gguf, adapters, tmp_path / "merged.gguf")
    before, after = read_header(base.gguf), read_header(tmp_path / "merged.gguf")
    assert all(before.raw(key) == after.raw(key) for key in before.keys())  # noqa: SIM118  # a Header is no dict
    assert set(after.keys()) - set(before.keys()) == {"llamaleon.merged"}
    assert after.text("llamaleon.merged") == "first.gguf*0.7, second*-0.4"
    with reference.open_model(base.gguf) as one, reference.open_model(tmp_path / "merged.gguf") as two:
        assert one.tokenize("¿Qué tal? <|im_end|>") == two.tokenize("¿Qué tal? <|im_end|>")


def test_refusals(tmp_path: Path) -> None:
    base, other = plain.write_base(tmp_path / "b.gguf"), plain.write_base(tmp_path / "o.gguf", seed=1)
    lora = random_lora(base, tmp_path / "lora.gguf", seed=0)
    convert(plain.write_peft(tmp_path / "peft"), other, tmp_path / "foreign.gguf")
    with pytest.raises(Refused, match="made for another base than"):
        merge(base, [(tmp_path / "foreign.gguf", 1.0)], tmp_path / "out.gguf")
    with pytest.raises(ConvertError, match="its weight is nan"):
        merge(base, [(lora, float("nan"))], tmp_path / "out.gguf")
    with pytest.raises(ConvertError, match="the base itself"):
        merge(base, [(lora, 1.0)], base)
    with pytest.raises(Refused, match="NaN or infinite"):
        merge(base, [(lora, 3e38), (lora, 3e38)], tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out.gguf*"))


def test_weights_that_halves_cannot_hold_are_refused(tmp_path: Path) -> None:
    base = tiny.make("llama", tmp_path, file_type="F16")
    lora = random_lora(base.gguf, tmp_path / "lora.gguf", seed=0)
    with pytest.raises(Refused, match=r"too large for F16\. Widen them"):
        merge(base.gguf, [(lora, 1e6)], tmp_path / "out.gguf")
    merge(base.gguf, [(lora, 1e6)], tmp_path / "out.gguf", widen=True)
    assert np.isfinite(read_rows(read_header(tmp_path / "out.gguf").tensors["blk.0.attn_q.weight"])).all()


def test_a_base_that_shrinks_while_it_is_copied(tmp_path: Path) -> None:
    header = read_header(plain.write_base(tmp_path / "base.gguf"))
    with (tmp_path / "base.gguf").open("r+b") as file:
        file.truncate(header.size - 100)
    with pytest.raises(ConvertError, match=r"base\.gguf: the file became shorter while it was being read"):
        write_model(tmp_path / "out.gguf", header, {}, lambda _: iter(()), {})


def test_the_quantiser_says_what_is_wrong(tmp_path: Path) -> None:
    base = tiny.make("llama", tmp_path, **WIDE)
    with pytest.raises(BindingError, match="Q9 is no type"):
        quantize(base.gguf, tmp_path / "out.gguf", "q9")
    with pytest.raises(BindingError, match="importance matrix"):
        quantize(base.gguf, tmp_path / "out.gguf", "iq2_xxs", threads=1)
    with pytest.raises(ConvertError, match="not a GGUF file"):
        (tmp_path / "text.gguf").write_text("hello, this is no model")
        quantize(tmp_path / "text.gguf", tmp_path / "out.gguf", "q8_0")
    assert not list(tmp_path.glob("*out.gguf*"))
    command = [
        sys.executable,
        "-m",
        "llamaleon_server.binding.quantize",
        str(base.gguf),
        str(tmp_path / "o"),
        "q9",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: Q9 is no type")
