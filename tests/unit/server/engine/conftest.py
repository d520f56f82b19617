"""One real engine for the tests of this folder: stories260K with three random adapters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data import NANO, shared
from tests.engine_process import EngineProcess
from tests.lora import random_lora

STORIES = "stories260K/stories260K-f32.gguf"
ADAPTERS = ("a", "b", "c")


@pytest.fixture(scope="session")
def stories() -> Path:
    return shared(STORIES)


@pytest.fixture(scope="session")
def adapter_files(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapter key to GGUF LoRA; the keys stand for content hashes."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        key: random_lora(stories, folder / f"{key}.gguf", seed=seed, rank=4)
        for seed, key in enumerate(ADAPTERS)
    }


@pytest.fixture(scope="module")
def engine(stories: Path, adapter_files: dict[str, Path]) -> Iterator[EngineProcess]:
    # Flash attention on a CPU and a 16-bit cache round differently from batch to batch, up to 0.03 in a
    # logit: enough to turn the greedy choice of a tiny model under random adapters.
    exact = {"flash_attention": False, "kv_type": "f32"}
    with EngineProcess(stories, threads=1, parallel_sequences=4, **exact) as process:
        for key, path in adapter_files.items():
            process.load(key, path)
        yield process


@pytest.fixture(scope="module")
def nano() -> Iterator[EngineProcess]:
    with EngineProcess(NANO, threads=1, parallel_sequences=8, context_tokens=1024) as process:
        yield process
