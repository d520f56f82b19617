"""The real `openai` package against a real server with a real engine and a real small model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.clients.servers import left_early
from tests.data import shared
from tests.server import RunningServer

from llamaleon_convert.header import read_header

BASE = "stories260K-f32"
USER: Any = [{"role": "user", "content": "Once upon a time"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    model = shared("stories260K/stories260K-f32.gguf")
    home = tmp_path_factory.mktemp("openai") / "home"
    # In full precision a seed gives the same text in any batch.
    exact = ["--kv-type", "f32", "--no-flash-attention"]
    with RunningServer(home, ["--model", str(model), "--parallel", "4", *exact]) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def chat(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model=BASE, messages=USER, **{"max_tokens": 12, **more})


def complete(client: OpenAI, **more: Any) -> Any:
    return client.completions.create(model=BASE, **more)


def test_models(client: OpenAI) -> None:
    assert BASE in [model.id for model in client.models.list()]
    model: Any = client.models.retrieve(BASE)
    assert (model.id, model.object) == (BASE, "model")
    assert model.chat_template == "fallback"  # an extra of ours: this model has no template
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("stories")
    assert error.value.code == "model_not_found"
    assert BASE in error.value.message


def test_plain_and_streamed_say_the_same(client: OpenAI) -> None:
    plain = chat(client, temperature=0)
    assert plain.model == BASE
    assert plain.choices[0].message.role == "assistant"
    assert plain.choices[0].finish_reason == "length"
    assert plain.usage.completion_tokens == 12
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + 12
    stream = chat(client, temperature=0, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage.prompt_tokens == plain.usage.prompt_tokens
    assert last.usage.completion_tokens == 12


def test_n_choices_and_seeds(client: OpenAI) -> None:
    first = chat(client, n=2, seed=5)
    again = chat(client, n=2, seed=5)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert texts[0] != texts[1]
    assert [choice.index for choice in first.choices] == [0, 1]
    assert first.usage.completion_tokens == 24


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: OpenAI, stream: bool) -> None:
    answer = chat(client, temperature=0, logprobs=True, top_logprobs=3, stream=stream)
    parts = [answer] if not stream else [chunk for chunk in answer if chunk.choices[0].logprobs]
    content = [item for part in parts for item in part.choices[0].logprobs.content]
    assert len(content) == 12
    for item in content:
        assert len(item.top_logprobs) == 3
        assert item.token == item.top_logprobs[0].token  # greedy
        assert item.logprob == item.top_logprobs[0].logprob <= 0
        assert bytes(item.bytes).decode("utf-8", "replace") == item.token


def test_stop_strings_and_penalties(client: OpenAI) -> None:
    whole = chat(client, temperature=0, max_tokens=40).choices[0].message.content
    word = whole.split()[3]
    cut = chat(client, temperature=0, max_tokens=40, stop=word)
    assert cut.choices[0].message.content == whole[: whole.index(word)]
    assert cut.choices[0].finish_reason == "stop"
    other = chat(client, temperature=0, max_tokens=40, frequency_penalty=2.0).choices[0].message.content
    assert other != whole


def test_a_banned_token_is_never_said(client: OpenAI) -> None:
    header = read_header(shared("stories260K/stories260K-f32.gguf"))
    comma = next(token for token in range(header.vocab_size) if header.token(token) == ",")

    def next_word(**more: Any) -> str:
        answer = complete(client, prompt="Once upon a time", temperature=0, max_tokens=1, **more)
        return str(answer.choices[0].text)

    assert next_word() == ","
    assert next_word(logit_bias={str(comma): -100}) != ","


def test_scoring_a_text_equals_what_generating_it_said(client: OpenAI) -> None:
    generated = complete(client, prompt="Once upon", temperature=0, max_tokens=6, logprobs=1)
    [choice] = generated.choices
    scored = complete(client, prompt="Once upon" + choice.text, echo=True, max_tokens=0, logprobs=1)
    logprobs = scored.choices[0].logprobs
    assert scored.choices[0].text == "Once upon" + choice.text
    assert logprobs.token_logprobs[0] is None
    assert logprobs.tokens[-6:] == choice.logprobs.tokens
    assert logprobs.token_logprobs[-6:] == pytest.approx(choice.logprobs.token_logprobs, abs=2e-3)
    for token, offset in zip(logprobs.tokens[2:], logprobs.text_offset[2:], strict=True):
        assert scored.choices[0].text[offset:].startswith(token)


def test_prompts_as_tokens_and_in_batches(client: OpenAI) -> None:
    batch = complete(client, prompt=["Once upon a time", "The cat"], temperature=0, max_tokens=5)
    alone = [
        complete(client, prompt=prompt, temperature=0, max_tokens=5).choices[0].text
        for prompt in ("Once upon a time", "The cat")
    ]
    assert [choice.text for choice in batch.choices] == alone
    tokens = complete(client, prompt=[1, 403, 407], echo=True, max_tokens=0)
    assert tokens.usage is not None
    assert tokens.usage.prompt_tokens == 3
    assert tokens.choices[0].text.startswith("<s>")


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"model": "stories"}, "model", "model_not_found"),
        ({"temperature": -1}, "temperature", None),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", None),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, None, "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own_exceptions(
    client: OpenAI, more: dict[str, Any], param: str | None, code: str | None, stream: bool
) -> None:
    expected = openai.NotFoundError if code == "model_not_found" else openai.BadRequestError
    with pytest.raises(expected) as error:
        client.chat.completions.create(**{"model": BASE, "messages": USER, "stream": stream, **more})
    assert error.value.code == code
    if param is not None:
        assert error.value.param == param
    assert error.value.request_id


@pytest.mark.parametrize("choices", [1, 3])
def test_closing_a_stream_ends_the_work(server: RunningServer, client: OpenAI, choices: int) -> None:
    prompts = ["Once"] * 40
    with left_early(server.url, 480 * choices * len(prompts)):
        stream = complete(
            client,
            prompt=prompts,
            max_tokens=480,
            n=choices,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        stream.close()


def test_a_client_that_times_out_ends_the_work(server: RunningServer, client: OpenAI) -> None:
    work: Any = {"prompt": ["x"] * 20, "max_tokens": 480, "n": 8, "extra_body": {"ignore_eos": True}}
    with left_early(server.url, 480 * 8 * 20), pytest.raises(openai.APITimeoutError):
        complete(client, timeout=0.05, **work)


async def test_many_async_streams_at_once(server: RunningServer) -> None:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:

        async def one(number: int) -> str:
            stream = await client.completions.create(
                model=BASE, prompt="Once upon a time", seed=number, max_tokens=20, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

        texts = await asyncio.gather(*(one(number) for number in range(12)))
        assert all(texts)
        assert await one(3) == texts[3]


@pytest.mark.parametrize("stream", [False, True])
def test_stopping_the_server_ends_what_runs_with_an_error(tmp_path: Path, stream: bool) -> None:
    model = shared("stories260K/stories260K-f32.gguf")
    with RunningServer(tmp_path / "home", ["--model", str(model)]) as server:
        client = server.openai(max_retries=0)
        work = {"prompt": ["Once"] * 200, "n": 8, "max_tokens": 400, "extra_body": {"ignore_eos": True}}
        threading.Timer(2.0, server.stop).start()
        with pytest.raises(openai.APIError, match="unloaded"):
            list(complete(client, stream=stream, **work))
        assert server.process is not None
        assert server.process.wait(20) == 0
    assert "Traceback" not in server.log.read_text()
