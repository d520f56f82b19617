"""The Responses API and batches as the real `openai` package speaks them, on the model that ships."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from tests.clients.servers import left_early
from tests.server import RunningServer

MODEL = "nano"
QUESTION = "¿Qué es un parte diario?"
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    home = tmp_path_factory.mktemp("responses") / "home"
    # In full precision greedy answers are the same in any batch.
    with RunningServer(home, ["--parallel", "8", "--kv-type", "f32", "--no-flash-attention"]) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(server: RunningServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def ask(client: OpenAI, text: Any = QUESTION, **more: Any) -> Any:
    return client.responses.create(
        **{"model": MODEL, "input": text, "temperature": 0, "max_output_tokens": 24, **more}
    )


def test_create_retrieve_and_delete(client: OpenAI) -> None:
    answer = ask(client, instructions="Contesta breve.", metadata={"k": "v"})
    assert answer.output_text
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    chat = client.chat.completions.create(
        model=MODEL,
        temperature=0,
        max_tokens=24,
        messages=[{"role": "system", "content": "Contesta breve."}, {"role": "user", "content": QUESTION}],
    )
    assert answer.output_text == chat.choices[0].message.content
    assert chat.usage is not None
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert client.responses.retrieve(answer.id) == answer
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_a_conversation_is_continued_by_id(client: OpenAI) -> None:
    first = ask(client)
    second = ask(client, "¿Y después?", previous_response_id=first.id)
    messages: Any = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "¿Y después?"},
    ]
    assert ask(client, messages).output_text == second.output_text
    assert second.usage.input_tokens_details.cached_tokens > 0
    items = list(client.responses.input_items.list(second.id, order="asc", limit=1))
    assert [item.type for item in items] == ["message"] * 3  # all pages
    counted = client.responses.input_tokens.count(
        model=MODEL, input="¿Y después?", previous_response_id=first.id
    )
    assert counted.input_tokens == second.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, previous_response_id="resp_none")
    assert error.value.code == "previous_response_not_found"


def test_every_raw_event_is_what_openais_types_say(server: RunningServer, client: OpenAI) -> None:
    body = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 24, "stream": True}
    text = httpx.post(f"{server.url}/v1/responses", json=body).text
    events = [
        EVENTS.validate_json(line.removeprefix("data: "), strict=True)
        for line in text.splitlines()
        if line.startswith("data: ")
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == ask(client).output_text


def test_the_clients_own_accumulation_agrees(client: OpenAI) -> None:
    kinds = []
    with client.responses.stream(
        model=MODEL, input=QUESTION, temperature=0, max_output_tokens=400, extra_body={"seed": 1}
    ) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "response.output_text.done":
                text = event.text
    final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert final.output_text == text
    assert Response.model_validate(final.to_dict(), strict=True).status == "completed"


async def test_async(async_client: AsyncOpenAI) -> None:
    more: Any = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 12}
    whole = await async_client.responses.create(**more)
    text = ""
    async for event in await async_client.responses.create(**more, stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == whole.output_text
    found = [item async for item in async_client.responses.input_items.list(whole.id)]
    assert len(found) == 1
    await async_client.responses.delete(whole.id)


def test_a_conversation_grows_with_its_responses(client: OpenAI) -> None:
    conversation = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "Me llamo Ana."}], metadata={"k": "v"}
    )
    answer = ask(client, "¿Cómo me llamo?", conversation=conversation.id)
    assert answer.conversation.id == conversation.id
    found = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.role for item in found if item.type == "message"] == ["user", "user", "assistant"]
    assert found[-1].id == answer.output[0].id
    client.conversations.items.create(
        conversation.id, items=[{"type": "message", "role": "user", "content": "Gracias."}]
    )
    assert len(list(client.conversations.items.list(conversation.id, limit=2))) == 4
    assert client.conversations.delete(conversation.id).deleted


def test_what_is_not_here_is_said_once(server: RunningServer) -> None:
    asked = []

    def count(request: Any) -> None:
        asked.append(str(request.url))

    http = openai.DefaultHttpxClient(event_hooks={"request": [count]})
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=3, http_client=http) as client:
        for call in (
            lambda: client.audio.speech.create(model="tts-1", voice="alloy", input="Hola"),
            lambda: client.images.generate(prompt="una llama"),
            lambda: client.moderations.create(input="Hola"),
            client.vector_stores.create,
            client.evals.list,
        ):
            with pytest.raises(openai.NotFoundError) as error:
                call()
            assert error.value.code == "unsupported_endpoint"
    assert len(asked) == 5


def test_background_is_polled_watched_and_cancelled(client: OpenAI) -> None:
    answer = ask(client, background=True)
    assert answer.status == "queued"
    deadline = time.monotonic() + 60
    while (found := client.responses.retrieve(answer.id)).status in {"queued", "in_progress"}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert found.output_text == ask(client).output_text
    endless: Any = {"background": True, "max_output_tokens": 2000, "extra_body": {"ignore_eos": True}}
    stream = ask(client, stream=True, **endless)
    first = next(iter(stream))
    stream.close()  # the client goes away: the response goes on
    name = first.response.id
    while (found := client.responses.retrieve(name)).status == "queued":
        assert time.monotonic() < deadline
    assert found.status == "in_progress"
    cancelled = client.responses.cancel(name)
    assert cancelled.status == "cancelled"
    events = list(client.responses.retrieve(name, stream=True, starting_after=0))
    assert [event.sequence_number for event in events] == list(range(1, 1 + len(events)))
    assert events  # however early it was cancelled, it had begun


class Report(BaseModel):
    project: str
    spent_eur: int


def test_parse_gives_an_object_of_the_wanted_class(client: OpenAI) -> None:
    answer = client.responses.parse(
        model=MODEL, input="Parte de Campus Riberis: 92.381 euros.", temperature=0, text_format=Report
    )
    assert answer.status == "completed"
    assert isinstance(answer.output_parsed, Report)
    with client.responses.stream(
        model=MODEL, input="Parte de Campus Riberis: 92.381 euros.", temperature=0, text_format=Report
    ) as stream:
        assert stream.get_final_response().output_parsed == answer.output_parsed


def test_a_required_call_is_well_formed_and_its_result_is_taken(client: OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "name": "weather",
        "description": "El tiempo de una ciudad",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Vigo", "Lugo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    }
    first = ask(
        client, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_output_tokens=200
    )
    [call] = [item for item in first.output if item.type == "function_call"]
    assert json.loads(call.arguments)["city"] in {"Vigo", "Lugo"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "llueve"}
    second = ask(client, [result], previous_response_id=first.id, tools=[tool], tool_choice="none")
    assert second.output[0].type == "message"
    choice: Any = {"type": "function", "name": "weather"}
    with client.responses.stream(
        model=MODEL, input=QUESTION, temperature=0, tools=[tool], tool_choice=choice, max_output_tokens=200
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
    streamed = stream.get_final_response()
    assert [item.arguments for item in streamed.output if item.type == "function_call"] == ["".join(deltas)]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"model": "none"}, "model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own_exceptions(
    client: OpenAI, more: dict[str, Any], param: str, stream: bool
) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as error:
        ask(client, stream=stream, **more)
    assert error.value.param == param
    assert error.value.request_id


def test_closing_a_stream_ends_the_work(server: RunningServer, client: OpenAI) -> None:
    with left_early(server.url, 900):
        stream = ask(client, max_output_tokens=900, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()


# ---------------------------------------------------------------- batches


def batch_of(client: OpenAI, count: int, tokens: int = 24, **more: Any) -> Any:
    body = {"model": MODEL, "temperature": 0, "max_tokens": tokens, **more}
    lines = [
        {
            "custom_id": f"n{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, "messages": [{"role": "user", "content": f"Cuenta hasta {number}."}]},
        }
        for number in range(count)
    ]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("batch.jsonl", data), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


def wait_for(client: OpenAI, name: str, done: int | None = None, timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while True:
        batch = client.batches.retrieve(name)
        counts = batch.request_counts
        if batch.status in {"completed", "failed", "expired", "cancelled"}:
            return batch
        if done is not None and counts is not None and counts.completed >= done:
            return batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)


def test_a_batch_answers_as_the_route_does(client: OpenAI) -> None:
    batch = wait_for(client, batch_of(client, 6).id)
    assert (batch.status, batch.request_counts.completed, batch.model) == ("completed", 6, MODEL)
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines] == [f"n{number}" for number in range(6)]
    direct = client.chat.completions.create(
        model=MODEL, temperature=0, max_tokens=24, messages=[{"role": "user", "content": "Cuenta hasta 4."}]
    )
    assert (
        lines[4]["response"]["body"]["choices"][0]["message"]["content"] == direct.choices[0].message.content
    )
    assert batch.id in [one.id for one in client.batches.list(limit=1)]
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)


def test_a_batch_is_cancelled(client: OpenAI) -> None:
    batch = batch_of(client, 40, tokens=200, ignore_eos=True)
    wait_for(client, batch.id, done=1)
    assert client.batches.cancel(batch.id).status == "cancelling"
    ended = wait_for(client, batch.id)
    assert ended.status == "cancelled"
    assert 1 <= ended.request_counts.completed < 40
    rest = [json.loads(line) for line in client.files.content(ended.error_file_id).text.splitlines()]
    assert len(rest) == 40 - ended.request_counts.completed
    assert {line["error"]["code"] for line in rest} == {"batch_cancelled"}


def test_after_kill_9_what_was_done_stays_done_and_the_rest_follows(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "home", ["--parallel", "8"]) as server, server.openai() as client:
        batch = batch_of(client, 40, tokens=100, ignore_eos=True)
        before = wait_for(client, batch.id, done=8)
        assert before.status == "in_progress"
        running = ask(client, background=True, max_output_tokens=2000, extra_body={"ignore_eos": True})
        server.kill()
        results = server.home / "batches" / f"{batch.id}.jsonl"
        kept = {
            line["result"]["custom_id"]: line["result"]["id"]
            for line in map(json.loads, results.read_text(encoding="utf-8").splitlines())
        }
        assert before.request_counts.completed <= len(kept) < 40
        server.start()
        failed = client.responses.retrieve(running.id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert "stopped while this response was running" in failed.error.message
        ended = wait_for(client, batch.id)
        assert (ended.status, ended.request_counts.completed) == ("completed", 40)
        lines = [json.loads(line) for line in client.files.content(ended.output_file_id).text.splitlines()]
        assert [line["custom_id"] for line in lines] == [f"n{number}" for number in range(40)]
        assert {line["custom_id"]: line["id"] for line in lines}.items() >= kept.items()
