"""The GGUF header reader: what it reads, what it refuses, and that no bytes make it crash or hang."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data import shared
from tests.unit.convert import gguf_bytes as raw

from llamaleon_convert import ConvertError, Refused
from llamaleon_convert.ggml_types import TENSOR_TYPES
from llamaleon_convert.header import read_header
from llamaleon_convert.manifest import fingerprint, manifest_of


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_small_model(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "m.gguf", raw.small_model()))
    assert (header.architecture, header.block_count, header.embedding_length) == ("llama", 2, 8)
    assert header.get("tokenizer.ggml.tokens") == ["a", "ñ", "€"]
    assert (header.vocab_size, header.token(2), header.bos_id, header.eos_id) == (3, "€", 1, None)
    assert header.chat_template == "{{ messages }}"
    assert header.get("no.such.key", 7) == 7
    norm = header.tensors["output_norm.weight"]
    assert (norm.shape, norm.type, norm.nbytes) == ((32,), "F16", 64)
    assert (tmp_path / "m.gguf").read_bytes()[norm.offset : norm.offset + 4] == bytes(range(4))
    with pytest.raises(IndexError, match="vocabulary of 3"):
        header.token(3)


def test_equals_the_gguf_package_on_a_real_model() -> None:
    path = shared("stories260K/stories260K-f32.gguf")
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            assert ours.get(key) == field.contents(), key
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.shape, mine.offset, mine.nbytes, mine.type) == (
            tuple(tensor.shape),
            tensor.data_offset,
            tensor.n_bytes,
            tensor.tensor_type.name,
        )
    assert len(ours.tensors) == len(theirs.tensors)


def test_type_table_equals_the_gguf_package() -> None:
    expected = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {number: tuple(kind) for number, kind in TENSOR_TYPES.items()} == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(64), "not a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (raw.gguf([], version=1), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "big-endian"),
        (raw.gguf([raw.key("a", 1), raw.key("a", 2)]), "appears twice"),
        (raw.gguf([raw.string("a") + struct.pack("<I", 99)]), "unknown type 99"),
        (raw.gguf([raw.string("a") + struct.pack("<IIQ", 9, 9, 1)]), "unknown item type 9"),
        (raw.gguf([raw.string("a") + struct.pack("<IIQ", 9, 8, 1 << 60)]), "truncated"),
        (raw.gguf([raw.string("a") + struct.pack("<IIQ", 9, 4, 1 << 62)]), "truncated"),
        (raw.gguf([struct.pack("<Q", 1 << 63)]), "truncated"),
        (raw.gguf([raw.key("general.alignment", 3)]), "power of two"),
        (raw.gguf([raw.key("split.count", 2)]), "one of 2 parts of a split model, by another name"),
        (raw.gguf([], [raw.tensor("t", (32,), 250, 0)], bytes(64)), "unknown type 250"),
        (raw.gguf([], [raw.tensor("t", (33,), 8, 0)], bytes(64)), "does not divide"),
        (raw.gguf([], [raw.tensor("t", (2,) * 5, 0, 0)], bytes(64)), "5 dimensions"),
        (raw.gguf([], [raw.tensor("t", (64,), 0, 0)], bytes(64)), "truncated: tensor 't'"),
        (raw.gguf([], [raw.tensor("t", (1,), 0, 0)] * 2, bytes(64)), "appears twice"),
        (raw.gguf([struct.pack("<Q", 2) + b"\xff\xfe"]), "not UTF-8"),
    ],
)
def test_bad_files_are_named_with_the_reason(content: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.gguf", content)
    with pytest.raises(ConvertError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="No such file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(ConvertError, match="cannot be read"):
        read_header(tmp_path)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    whole = raw.small_model()
    path = tmp_path / "cut.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConvertError):
            read_header(path)


@settings(max_examples=300, deadline=None)  # a busy machine; what hangs meets the time limit of every test
@given(st.data())
def test_corrupted_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(raw.small_model())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + 1] = data.draw(st.binary(min_size=0, max_size=9))
    path = write(tmp_path_factory.getbasetemp() / "fuzz.gguf", bytes(content))
    for read in (fingerprint, manifest_of):
        try:
            read(path)
        except ConvertError as error:
            assert str(path) in str(error)


def test_an_adapter_is_not_a_base(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", raw.gguf([raw.key("general.type", "adapter")]))
    with pytest.raises(Refused, match="not a base model"):
        fingerprint(path)


def test_a_vocabulary_of_150_000_tokens_is_quick(tmp_path: Path) -> None:
    tokens = [f"token{i}" for i in range(150_000)]
    keys = [raw.key("tokenizer.ggml.tokens", tokens), raw.key("tokenizer.ggml.merges", tokens)]
    path = write(tmp_path / "large.gguf", raw.gguf(keys))
    begin = time.process_time()
    header = read_header(path)
    assert time.process_time() - begin < 5  # about 0.1 s; a walk that is quadratic takes minutes
    assert header.token(149_999) == "token149999"
