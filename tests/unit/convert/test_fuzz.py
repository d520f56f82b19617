"""Damaged files of every kind end in ConvertError or in a file that is checked; never in a crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tiny import plain

from llamaleon_convert import ConvertError, check_lora, convert
from llamaleon_convert.header import read_header

FEW = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    base = plain.write_base(tmp_path / "base.gguf", tied=False)
    convert(plain.write_peft(tmp_path / "peft"), base, tmp_path / "adapter.gguf")
    return tmp_path


def damaged(data: st.DataObject, content: bytes, head: int) -> bytes:
    """A few bytes of the first `head` replaced, removed or inserted."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(head, len(changed)) - 1))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    return bytes(changed)


def try_all(files: Path, action: Callable[[], object]) -> None:
    out = files / "out.gguf"
    out.unlink(missing_ok=True)
    with suppress(ConvertError):
        action()
        return
    assert not out.exists(), "what fails leaves nothing behind"


@FEW
@given(st.data())
def test_damaged_weights(files: Path, data: st.DataObject) -> None:
    peft_dir = files / "damaged"
    shutil.copytree(files / "peft", peft_dir, dirs_exist_ok=True)
    whole = (files / "peft" / "adapter_model.safetensors").read_bytes()
    (peft_dir / "adapter_model.safetensors").write_bytes(damaged(data, whole, 1200))
    try_all(files, lambda: convert(peft_dir, files / "base.gguf", files / "out.gguf"))


@FEW
@given(st.data())
def test_damaged_config(files: Path, data: st.DataObject) -> None:
    peft_dir = files / "damaged"
    shutil.copytree(files / "peft", peft_dir, dirs_exist_ok=True)
    whole = (files / "peft" / "adapter_config.json").read_bytes()
    (peft_dir / "adapter_config.json").write_bytes(damaged(data, whole, len(whole)))
    try_all(files, lambda: convert(peft_dir, files / "base.gguf", files / "out.gguf"))


@FEW
@given(st.data())
def test_damaged_base(files: Path, data: st.DataObject) -> None:
    base = files / "damaged.gguf"
    base.write_bytes(damaged(data, (files / "base.gguf").read_bytes(), 1500))
    try_all(files, lambda: convert(files / "peft", base, files / "out.gguf"))


@FEW
@given(st.data())
def test_damaged_adapter(files: Path, data: st.DataObject) -> None:
    adapter = files / "damaged.gguf"
    adapter.write_bytes(damaged(data, (files / "adapter.gguf").read_bytes(), 2000))
    with suppress(ConvertError):
        check_lora(adapter, read_header(files / "base.gguf"))
