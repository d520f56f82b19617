"""Models loaded in this process; llama.cpp is initialised once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data import shared
from tests.tiny.speed_model import Shape, speed_model

from llamaleon_server.binding import library
from llamaleon_server.binding.loading import Loaded, LoadOptions, open_model


def options_for(path: Path) -> LoadOptions:
    return LoadOptions(
        path=path,
        gpu_layers=None,
        context_tokens=256,
        kv_tokens=None,
        running_sequences=4,
        batch_tokens=64,
        threads=1,
        flash_attention=False,
        kv_type="f32",
        use_mmap=True,
    )


@pytest.fixture(scope="session", autouse=True)
def llama_cpp() -> None:
    library.start()


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    """stories260K: its output head shares the embedding's weights in the file's own way."""
    opened = open_model(options_for(shared("stories260K/stories260K-f32.gguf")))
    yield opened
    opened.context.close()
    opened.model.close()


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """A Qwen2 whose head is its embedding."""
    shape = Shape(hidden=64, layers=2, ffn=128, heads=4, kv_heads=2, vocabulary=512, context=256)
    opened = open_model(options_for(speed_model(tmp_path_factory.mktemp("tied") / "tied.gguf", shape)))
    yield opened
    opened.context.close()
    opened.model.close()
