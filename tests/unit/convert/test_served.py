"""Converted adapters of experts and hybrids in the engine: it answers as llama.cpp alone does."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import tiny
from tests.lora import random_lora
from tests.tiny.adapters import make_adapter
from tests.unit.server.engine.serving import served

from llamaleon_convert import combine, convert

pytestmark = pytest.mark.timeout(120)  # an engine that goes round in circles


@pytest.mark.parametrize("family", tiny.MIXED_FAMILIES)
def test_the_engine_takes_them(family: str, tmp_path: Path) -> None:
    base = tiny.make(family, tmp_path)
    adapter = make_adapter(base, tmp_path / "peft")
    all_linear = tmp_path / "all.gguf"
    convert(adapter.directory, base.gguf, all_linear)
    other = random_lora(base.gguf, tmp_path / "other.gguf", seed=2, rank=3, targets=("attn_output", "attn_q"))
    combine(base.gguf, [(all_linear, 0.5), (other, 0.5)], tmp_path / "both.gguf", rank=6)
    status = served(base.gguf, {"all": all_linear, "both": tmp_path / "both.gguf", "other": other})
    assert not status.bank.mixing or "other" not in status.bank.alone
