"""What a user sees of the real engine: bank and figures by name, pins, refusals at registration."""

from __future__ import annotations

import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.data import shared
from tests.integration.flow import BASE
from tests.integration.test_adapters import add_adapters
from tests.lora import random_lora
from tests.server import RunningServer
from tests.unit.server.binding.test_adapters import pair, write

from llamaleon_convert.header import read_header

WAIT_S = 60.0
GAP = 32  # bytes, as data are aligned


def unloadable(path: Path) -> Path:
    """A sound adapter of more ranks than the bank takes, so that llama.cpp reads it, which allows no gaps."""
    name = "blk.0.attn_q.weight"
    write(path, pair(name, 64, 64, rank=272), architecture="llama")
    last = read_header(path).tensors[f"{name}.lora_b"]
    content = bytearray(path.read_bytes())
    # After its name: the number of dimensions, two of them, the type, and where its data begin.
    at = content.index(last.name.encode()) + len(last.name) + 4 + 2 * 8 + 4
    (begin,) = struct.unpack_from("<Q", content, at)
    struct.pack_into("<Q", content, at, begin + GAP)
    content[last.offset : last.offset] = bytes(GAP)
    path.write_bytes(content)
    return path


def add(server: RunningServer, name: str, path: Path) -> httpx.Response:
    body = {"lora_name": name, "lora_path": str(path)}
    return httpx.post(f"{server.url}/v1/load_lora_adapter", json=body)


def complete(server: RunningServer, model: str) -> httpx.Response:
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)


def ps(server: RunningServer) -> Any:
    [model] = httpx.get(f"{server.url}/llamaleon/ps").json()["data"]
    return model


def states(server: RunningServer) -> dict[str, tuple[str, str | None]]:
    listed = httpx.get(f"{server.url}/llamaleon/adapters").json()["data"]
    return {version["id"]: (version["state"], version["reason"]) for version in listed}


def test_bank_and_figures_are_shown_by_name(stories: RunningServer, tmp_path: Path) -> None:
    names = add_adapters(stories, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda model: complete(stories, model), [BASE, *names] * 4))
    assert all(answer.status_code == 200 for answer in answers)
    timings = [answer.json()["timings"] for answer in answers]
    assert all(one["predicted_n"] == 24 and one["sequences_in_batch"] >= 1 for one in timings)
    model = ps(stories)
    assert {hot["name"] for hot in model["bank"]["hot"]} == {f"{name}@1" for name in names}
    assert model["bank"]["used_ranks"] <= model["bank"]["total_ranks"]
    assert model["step"]["tokens_out"] == 24 * len(answers)
    assert model["prefix"]["hit_rate"] > 0
    text = httpx.get(f"{stories.url}/metrics").text
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    assert samples["llamaleon_generated_tokens_total"] == 24 * len(answers)
    assert samples["llamaleon_adapters_hot"] == 3
    assert samples["llamaleon_time_to_first_token_seconds_count"] == len(answers)


def test_what_only_the_engine_refuses_fails_when_it_is_registered(
    stories: RunningServer, tmp_path: Path
) -> None:
    assert complete(stories, BASE).status_code == 200  # the engine runs
    refused = add(stories, "bad", unloadable(tmp_path / "bad.gguf"))
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "adapter_refused"
    state, reason = states(stories)[f"{BASE}+bad@1"]
    assert state == "failed"
    assert reason is not None
    assert "has offset" in reason, "in llama.cpp's words"
    asked = complete(stories, f"{BASE}+bad")
    assert (asked.status_code, asked.json()["error"]["code"]) == (400, "adapter_refused")


def test_without_an_engine_the_first_request_finds_out_and_it_is_remembered(
    stories: RunningServer, tmp_path: Path
) -> None:
    assert add(stories, "bad", unloadable(tmp_path / "bad.gguf")).status_code == 200
    for _ in range(2):
        assert complete(stories, f"{BASE}+bad").status_code == 400
        assert states(stories)[f"{BASE}+bad@1"][0] == "failed"


def test_a_bad_file_in_a_watched_folder_fails_once_and_the_one_before_goes_on(tmp_path: Path) -> None:
    model, watched = shared("stories260K/stories260K-f32.gguf"), tmp_path / "drop"
    watched.mkdir()
    random_lora(model, tmp_path / "rojo.gguf", seed=3).rename(watched / "rojo.gguf")
    with RunningServer(tmp_path / "home", ["--model", str(model), "--watch", str(watched)]) as server:
        assert complete(server, BASE).status_code == 200
        until(lambda: states(server).get(f"{BASE}+rojo@1", ("",))[0] == "deployed")
        unloadable(tmp_path / "rojo.gguf").rename(watched / "rojo.gguf")
        until(lambda: states(server).get(f"{BASE}+rojo@2", ("",))[0] == "failed")
        time.sleep(0.3)
        assert len(states(server)) == 2, "it is not read again and again"
        assert complete(server, f"{BASE}+rojo").status_code == 200


def test_pins_survive_a_restart_of_server_and_engine(tmp_path: Path) -> None:
    options = ["--model", str(shared("stories260K/stories260K-f32.gguf"))]
    with RunningServer(tmp_path / "home", options) as server:
        [name, *_] = add_adapters(server, tmp_path)
        assert httpx.post(f"{server.url}/llamaleon/adapters/{name}/pin").status_code == 200
    with RunningServer(tmp_path / "home", options) as server:
        assert complete(server, BASE).status_code == 200
        until(lambda: [a["name"] for a in ps(server)["adapters"] if a["pinned"]] == [f"{name}@1"])


def until(condition: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
