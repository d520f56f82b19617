"""The real `anthropic` package against a real server with the model that ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic, beta_tool
from pydantic import BaseModel
from tests.clients.servers import left_early
from tests.data import NANO
from tests.lora import random_lora
from tests.server import RunningServer

HELLO: Any = [{"role": "user", "content": "Say hello."}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"enum": ["Lima", "Cuzco"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    # In full precision a prompt gives the same text in any batch.
    exact = ["--kv-type", "f32", "--no-flash-attention"]
    with RunningServer(tmp_path_factory.mktemp("anthropic") / "home", ["--parallel", "4", *exact]) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="unused", max_retries=0) as made:
        yield made


def create(client: Anthropic, **more: Any) -> Any:
    body = {"model": "nano", "max_tokens": 24, "messages": HELLO, "extra_body": {"temperature": 0}, **more}
    return client.messages.create(**body)


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_models(client: Anthropic) -> None:
    [nano] = client.models.list()
    assert (nano.id, nano.type, nano.lifecycle) == ("nano", "model", "active")
    assert client.models.retrieve("nano").display_name == "nano"
    with pytest.raises(anthropic.NotFoundError) as error:
        client.models.retrieve("nono")
    assert error.value.type == "not_found_error"


def test_plain_and_streamed_say_the_same(client: Anthropic) -> None:
    plain = create(client)
    assert (plain.type, plain.role, plain.model) == ("message", "assistant", "nano")
    assert plain.usage.output_tokens > 0
    assert plain._request_id
    with client.messages.stream(
        model="nano", max_tokens=24, messages=HELLO, extra_body={"temperature": 0}
    ) as stream:
        assert "".join(stream.text_stream) == text_of(plain)
    final = stream.get_final_message()
    assert text_of(final) == text_of(plain)
    assert final.stop_reason == plain.stop_reason
    assert final.usage.output_tokens == plain.usage.output_tokens
    whole = final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0)
    assert whole == plain.usage.input_tokens + plain.usage.cache_read_input_tokens


def test_raw_events_come_in_order(client: Anthropic) -> None:
    kinds = [event.type for event in create(client, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]  # the package drops pings
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_system_turns_and_prefill(client: Anthropic) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Again?"}]
    plain = create(client, messages=messages)
    told = create(client, messages=messages, system=[{"type": "text", "text": "Answer in Spanish."}])
    assert told.usage.input_tokens + told.usage.cache_read_input_tokens > plain.usage.input_tokens
    whole = text_of(create(client))
    begun = " ".join(whole.split()[:2])
    more = create(client, messages=[*HELLO, {"role": "assistant", "content": begun}])
    assert text_of(more).startswith(whole[len(begun) : 12])


def test_stop_sequences(client: Anthropic) -> None:
    whole = text_of(create(client))
    word = whole.split()[1]
    cut = create(client, stop_sequences=[word])
    assert text_of(cut) == whole[: whole.index(word)]
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)


def test_counting_equals_what_a_message_uses(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model="nano", messages=HELLO, system="Be brief.", tools=[WEATHER])
    used = create(client, system="Be brief.", tools=[WEATHER]).usage
    assert counted.input_tokens == used.input_tokens + used.cache_read_input_tokens


def test_the_same_prompt_again_is_read_from_the_cache(client: Anthropic) -> None:
    long = [{"role": "user", "content": "Count to ten, and say it slowly. " * 8}]
    create(client, messages=long)
    again = create(client, messages=long).usage
    assert again.cache_read_input_tokens > again.input_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_tool_is_called_with_what_its_schema_says(client: Anthropic, stream: bool) -> None:
    body: Any = {
        "model": "nano",
        "max_tokens": 400,
        "messages": HELLO,
        "tools": [WEATHER],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    if stream:
        with client.messages.stream(**body) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**body)
    [call] = [block for block in message.content if block.type == "tool_use"]
    assert (call.name, message.stop_reason) == ("weather", "tool_use")
    assert call.input["city"] in {"Lima", "Cuzco"}
    assert call.input["days"] in range(1, 10)
    answered = create(
        client,
        tools=[WEATHER],
        messages=[
            *HELLO,
            {"role": "assistant", "content": message.content},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "18 °C"}],
            },
        ],
        tool_choice={"type": "none"},
    )
    assert not [block for block in answered.content if block.type == "tool_use"]


class Person(BaseModel):
    name: str
    age: int


def test_a_structured_output(client: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 10},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = create(
        client, max_tokens=300, output_config={"format": {"type": "json_schema", "schema": schema}}
    )
    assert 0 <= Person.model_validate_json(text_of(answer)).age <= 150


class Mood(BaseModel):
    mood: Literal["good", "bad"]
    sure: bool


def test_the_packages_own_parsing(client: Anthropic) -> None:
    parsed = client.messages.parse(model="nano", max_tokens=60, messages=HELLO, output_format=Mood)
    assert parsed.parsed_output is not None
    assert parsed.parsed_output.mood in {"good", "bad"}


def test_tools_that_the_package_runs(client: Anthropic) -> None:
    called = []

    @beta_tool
    def mood(kind: Literal["good", "bad"]) -> str:
        """How somebody is.

        Args:
            kind: Good or bad.
        """
        called.append(kind)
        return "noted"

    runner = client.beta.messages.tool_runner(
        model="nano",
        max_tokens=200,
        messages=HELLO,
        tools=[mood],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        max_iterations=2,
    )
    assert [message.stop_reason for message in runner] == ["tool_use", "tool_use"]
    assert set(called) <= {"good", "bad"}
    assert called


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "kind", "word"),
    [
        ({"model": "nono"}, anthropic.NotFoundError, "nano"),
        ({"extra_body": {"temperature": 3}}, anthropic.BadRequestError, "temperature"),
        ({"container": "x"}, anthropic.BadRequestError, "container"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, anthropic.BadRequestError, "context"),
    ],
)
def test_errors_are_the_clients_own_exceptions(
    client: Anthropic, stream: bool, more: dict[str, Any], kind: type[anthropic.APIStatusError], word: str
) -> None:
    with pytest.raises(kind) as error:
        create(client, stream=stream, **more)
    assert word in str(error.value.api_message)
    assert error.value.request_id
    if word == "context":
        assert error.value.error_code == "context_length_exceeded"


def test_the_beta_client(client: Anthropic) -> None:
    """As coding agents speak: features that are not there are asked for by header, and do no harm."""
    message = client.beta.messages.create(
        model="nano",
        max_tokens=5,
        messages=HELLO,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        betas=["context-management-2025-06-27", "interleaved-thinking-2025-05-14"],
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
        metadata={"user_id": "somebody"},
        thinking={"type": "adaptive"},
    )
    assert 0 < message.usage.output_tokens <= 5, "drawn at the default temperature it may end early"


def test_batches_are_refused(client: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="batches"):
        client.messages.batches.create(requests=[])


def test_an_adapter_by_name(server: RunningServer, client: Anthropic, tmp_path: Path) -> None:
    lora = random_lora(NANO, tmp_path / "odd.gguf", seed=3, strength=3.0)
    loading = {"lora_name": "odd", "lora_path": str(lora), "base_model_name": "nano"}
    httpx.post(f"{server.url}/v1/load_lora_adapter", json=loading).raise_for_status()
    odd = create(client, model="nano+odd")
    assert odd.model == "nano+odd"
    assert text_of(odd) != text_of(create(client))
    httpx.delete(f"{server.url}/v1/models/nano+odd").raise_for_status()


def test_closing_a_stream_ends_the_work(server: RunningServer, client: Anthropic) -> None:
    with left_early(server.url, 900):
        stream = create(client, max_tokens=900, stream=True, extra_body={"temperature": 1.0, "top_k": 0})
        next(iter(stream))
        stream.close()


async def test_many_async_streams_at_once(server: RunningServer) -> None:
    import asyncio

    async with AsyncAnthropic(base_url=server.url, api_key="unused", max_retries=0) as client:

        async def one(text: str) -> str:
            messages: Any = [{"role": "user", "content": text}]
            async with client.messages.stream(
                model="nano", max_tokens=12, messages=messages, extra_body={"temperature": 0}
            ) as stream:
                return await stream.get_final_text()

        texts = await asyncio.gather(*(one(f"Say {number}.") for number in range(8)))
        assert all(texts)
        counted = await client.messages.count_tokens(model="nano", messages=HELLO)
        assert counted.input_tokens > 0
