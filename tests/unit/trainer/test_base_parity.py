"""The goal of `make bench`, on a few architectures of each kind: what is served is what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.bench.parity_families import divergences


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gemma3", "mixtral", "gpt-oss", "granitehybrid", "qwen35"]
)
def test_adapter_diverges_no_more_than_twice_the_base(tmp_path: Path, family: str) -> None:
    base, adapter = divergences(tmp_path, family, "Q4_0")
    assert 0 < adapter < 2 * base
