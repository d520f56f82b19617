"""From the hub, from an Ollama registry and from another program's folder to an answer of the real model."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.data import shared
from tests.hub.models import split
from tests.hub.serving import Elsewhere
from tests.server import RunningServer
from tests.tiny.quantize import quantize

EXACT = ["--kv-type", "f32", "--no-flash-attention", "--parallel", "1", "--context", "128"]


def say(server: RunningServer, model: str) -> str:
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def test_one_text_from_wherever_it_comes(
    elsewhere: Elsewhere, own_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = shared("stories260K/stories260K-f32.gguf")
    parts = split(stories, tmp_path, "stories-F32", 3)
    small = quantize(stories, tmp_path / "small.gguf", "Q8_0")
    elsewhere.put(
        "k/Stories", {"stories-Q8_0.gguf": small.read_bytes(), **{p.name: p.read_bytes() for p in parts}}
    )
    elsewhere.add_model(
        "library/stories/260k", {"model": stories.read_bytes(), "params": b'{"num_predict": 5}'}
    )
    monkeypatch.setenv("OLLAMA_MODELS", str(own_folders / "none"))
    folder = own_folders / ".lmstudio" / "models" / "k" / "Found"
    folder.mkdir(parents=True)
    (folder / "found-F32.gguf").symlink_to(stories)
    models = ["--model", str(stories)]
    with RunningServer(tmp_path / "home", [*models, *EXACT], discover=True) as server:
        pull = {"model": "k/Stories:F32", "stream": False}
        done = httpx.post(f"{server.url}/llamaleon/pull", json=pull, timeout=60).json()
        assert done == {"status": "success", "model": "k/Stories:F32"}
        mirrored = {"model": "stories:260k", "mirror": elsewhere.url, "stream": False}
        done = httpx.post(f"{server.url}/llamaleon/pull", json=mirrored, timeout=60).json()
        assert done == {"status": "success", "model": "stories:260k"}
        expected = say(server, "stories260K-f32")
        for model in ("k/Stories:F32", "k/Found:F32", "stories:260k"):
            assert say(server, model) == expected, model
        chat = {"model": "stories:260k", "messages": [{"role": "user", "content": "Once"}]}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=chat, timeout=60).json()
        assert answer["usage"]["completion_tokens"] <= 5  # the preset came along
