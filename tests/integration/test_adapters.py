"""Adapters by name, through the ordinary client: exact in any company, hot-loaded, replaced mid-stream."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from tests.data import shared
from tests.integration.flow import BASE
from tests.lora import random_lora
from tests.server import RunningServer

PROMPTS = ("Once upon a time", "Lily had a", "The big dog", "One day, Tom")


ADAPTERS = ("red", "green", "blue")


@pytest.fixture
def adapters(stories: RunningServer, tmp_path: Path) -> list[str]:
    return add_adapters(stories, tmp_path)


def add_adapters(server: RunningServer, folder: Path) -> list[str]:
    """Three random adapters of different rank; the names that they answer to."""
    base = shared("stories260K/stories260K-f32.gguf")
    for index, name in enumerate(ADAPTERS):
        load(server, name, random_lora(base, folder / f"{name}.gguf", seed=index, rank=2 + index))
    return [f"{BASE}+{name}" for name in ADAPTERS]


def load(server: RunningServer, name: str, path: Path, **more: object) -> None:
    body = {"lora_name": name, "lora_path": str(path), **more}
    answer = httpx.post(f"{server.url}/v1/load_lora_adapter", json=body)
    assert answer.status_code == 200, answer.text


def greedy(client: openai.OpenAI, model: str, prompt: str, tokens: int = 24) -> str:
    done = client.completions.create(model=model, prompt=prompt, max_tokens=tokens, temperature=0)
    return done.choices[0].text


def test_random_interleavings_say_exactly_what_each_says_alone(exact: RunningServer, tmp_path: Path) -> None:
    client = exact.openai()
    models = [BASE, *add_adapters(exact, tmp_path), f"{BASE}+red*0.5+blue*0.5"]
    alone = {(model, prompt): greedy(client, model, prompt) for model in models for prompt in PROMPTS}
    assert len({alone[model, PROMPTS[0]] for model in models}) == len(models), "the adapters change nothing"

    mixed = [pair for pair in alone for _ in range(3)]
    random.Random(5).shuffle(mixed)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda pair: greedy(client, *pair), mixed))
    wrong = [pair for pair, answer in zip(mixed, answers, strict=True) if answer != alone[pair]]
    assert not wrong


def test_a_then_b_then_a_equals_a_alone(stories: RunningServer, adapters: list[str]) -> None:
    client = stories.openai()
    first, second = adapters[:2]
    prompt = "Once upon a time, there was a little girl named Lily. She loved"
    a = greedy(client, first, prompt)
    assert greedy(client, second, prompt) != a
    assert greedy(client, first, prompt) == a
    assert greedy(client, BASE, prompt) not in {a}


def test_replacing_an_adapter_finishes_the_running_stream_on_the_old_version(
    stories: RunningServer, adapters: list[str], tmp_path: Path
) -> None:
    client = stories.openai()
    name = adapters[0]
    old = greedy(client, name, PROMPTS[0], tokens=300)
    stream = client.completions.create(
        model=name, prompt=PROMPTS[0], max_tokens=300, temperature=0, stream=True
    )
    chunks = iter(stream)
    heard = next(chunks).choices[0].text
    new = random_lora(shared("stories260K/stories260K-f32.gguf"), tmp_path / "new.gguf", seed=99)
    load(stories, "red", new, load_inplace=True)
    replaced = greedy(client, name, PROMPTS[0], tokens=300)
    heard += "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert heard == old
    assert replaced != old
    assert greedy(client, f"{name}@1", PROMPTS[0], tokens=300) == old


def test_a_file_dropped_into_the_watched_folder_answers_by_its_name(tmp_path: Path) -> None:
    model = shared("stories260K/stories260K-f32.gguf")
    watched = tmp_path / "drop"
    watched.mkdir()
    with RunningServer(tmp_path / "home", ["--model", str(model), "--watch", str(watched)]) as server:
        client = server.openai()
        base = greedy(client, BASE, PROMPTS[0])
        random_lora(model, tmp_path / "amarillo.gguf", seed=3).rename(watched / "amarillo.gguf")
        deadline = time.monotonic() + 10
        while True:
            try:
                said = greedy(client, f"{BASE}+amarillo", PROMPTS[0])
                break
            except openai.NotFoundError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert said != base


def test_a_client_that_goes_away_stops_costing(stories: RunningServer) -> None:
    client = stories.openai()
    stream = client.completions.create(
        model=BASE, prompt="Once", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 2
    while httpx.get(f"{stories.url}/llamaleon/ps").json()["data"][0]["running"]:
        assert time.monotonic() < deadline, "the engine still works for a client that went away"
        time.sleep(0.02)


def test_the_api_answers_while_a_model_loads_and_streams_run(stories: RunningServer) -> None:
    client, slowest, done = stories.openai(), 0.0, threading.Event()

    def talk() -> None:
        greedy(client, BASE, PROMPTS[0], tokens=200)
        done.set()

    threading.Thread(target=talk).start()
    while not done.is_set():
        start = time.perf_counter()
        httpx.get(f"{stories.url}/health").raise_for_status()
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 0.5


def test_unknown_names_are_404_with_the_nearest(stories: RunningServer, adapters: list[str]) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        greedy(stories.openai(), f"{BASE}+gren", "x")
    assert error.value.code == "model_not_found"
    assert f"{BASE}+green" in str(error.value)


def test_an_adapter_for_another_base_is_refused_with_the_field(
    stories: RunningServer, tmp_path: Path
) -> None:
    from tests.data import NANO

    foreign = random_lora(NANO, tmp_path / "foreign.gguf", seed=1)
    body = {"lora_name": "foreign", "lora_path": str(foreign), "base_model_name": BASE}
    answer = httpx.post(f"{stories.url}/v1/load_lora_adapter", json=body)
    assert answer.status_code == 400
    assert "qwen2" in answer.json()["error"]["message"]
    assert "llama" in answer.json()["error"]["message"]
