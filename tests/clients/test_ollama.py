"""The real `ollama` package against a real server with the model that ships."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from ollama import AsyncClient, Client, ResponseError
from pydantic import BaseModel
from tests.clients.servers import left_early
from tests.data import NANO
from tests.hub.serving import serving
from tests.lora import random_lora
from tests.server import RunningServer

HELLO: Any = [{"role": "user", "content": "Say hello."}]
GREEDY: Any = {"temperature": 0, "num_predict": 24, "repeat_penalty": 1.0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    # In full precision a prompt gives the same text in any batch.
    exact = ["--kv-type", "f32", "--no-flash-attention"]
    with RunningServer(tmp_path_factory.mktemp("ollama") / "home", ["--parallel", "4", *exact]) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(host=server.url) as made:
        yield made


def chat(client: Client, model: str = "nano", **more: Any) -> Any:
    return client.chat(model, **{"messages": HELLO, "options": GREEDY, **more})


def names(client: Client) -> set[str | None]:
    return {model.model for model in client.list().models}


@pytest.mark.parametrize("model", ["nano", "nano:latest"])
def test_plain_and_streamed_say_the_same(client: Client, model: str) -> None:
    plain = chat(client, model)
    assert (plain.model, plain.message.role, plain.done) == (model, "assistant", True)
    assert plain.message.content
    assert plain.eval_count > 0
    assert plain.prompt_eval_count > 0
    assert plain.total_duration >= plain.eval_duration > 0
    *pieces, last = list(chat(client, model, stream=True))
    assert "".join(piece.message.content for piece in pieces) == plain.message.content
    assert (last.done, last.done_reason, last.eval_count) == (True, plain.done_reason, plain.eval_count)


def test_generate(client: Client) -> None:
    plain = client.generate("nano", "Say hello.", options=GREEDY)
    assert plain.response == chat(client).message.content  # a generation is a chat of one turn
    pieces = list(client.generate("nano", "Say hello.", options=GREEDY, stream=True))
    assert "".join(piece.response or "" for piece in pieces) == plain.response
    assert plain.context
    assert pieces[-1].context == plain.context
    more = client.generate("nano", "Again.", options=GREEDY, context=plain.context)
    assert more.prompt_eval_count is not None
    assert more.prompt_eval_count > len(plain.context)
    raw = client.generate("nano", "Say hello.", raw=True, options=GREEDY)
    assert raw.prompt_eval_count is not None
    assert plain.prompt_eval_count is not None
    assert raw.prompt_eval_count < plain.prompt_eval_count


def test_options(client: Client) -> None:
    whole = chat(client).message.content
    assert chat(client, options={**GREEDY, "num_predict": 3}).eval_count == 3
    word = whole.split()[1]
    cut = chat(client, options={**GREEDY, "stop": [word]})
    assert cut.message.content == whole[: whole.index(word)]
    free = {"num_predict": 16, "temperature": 1.5, "top_k": 0, "top_p": 1.0}
    one, same, other = (chat(client, options={**free, "seed": seed}) for seed in (1, 1, 2))
    assert one.message.content == same.message.content != other.message.content
    assert chat(client, options=ollama.Options(num_ctx=4096, num_predict=2, temperature=0)).eval_count == 2


def test_logprobs(client: Client) -> None:
    answer = chat(client, logprobs=True, top_logprobs=2)
    assert len(answer.logprobs) > 3
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in answer.logprobs)


def weather(city: str, days: int) -> str:
    """The weather of a city.

    Args:
        city: Its name.
        days: How many.
    """
    return f"{days} days of sun in {city}"


def test_tools(client: Client) -> None:
    answer = chat(client, tools=[weather])  # nano may call it or not; what it says is well-formed either way
    for call in answer.message.tool_calls or []:
        assert call.function.name == "weather"
        assert isinstance(call.function.arguments, dict)
    called = {"function": {"name": "weather", "arguments": {"city": "Lima", "days": 2}}}
    turns = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": weather("Lima", 2), "tool_name": "weather"},
    ]
    assert chat(client, tools=[weather], messages=turns).prompt_eval_count > answer.prompt_eval_count


class Person(BaseModel):
    name: str
    adult: bool


@pytest.mark.parametrize("stream", [False, True])
def test_a_format_is_kept(client: Client, stream: bool) -> None:
    schema = Person.model_json_schema()
    schema["properties"]["name"]["maxLength"] = 10
    options = {"num_predict": 200, "temperature": 1.0}
    answer = chat(client, format=schema, options=options, stream=stream)
    parts = answer if stream else [answer]
    Person.model_validate_json("".join(part.message.content for part in parts))
    free = client.generate("nano", "Hello.", format="json", options={**options, "seed": 1})
    assert (free.response or "").startswith("{")


def test_embeddings(client: Client) -> None:
    answer = client.embed("nano", ["Hello there.", "Goodbye."])
    assert len(answer.embeddings) == 2
    for vector in answer.embeddings:
        assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-4)
    assert answer.prompt_eval_count is not None
    assert answer.prompt_eval_count > 2
    older = client.embeddings("nano", "Hello there.").embedding
    length = sum(value * value for value in older) ** 0.5
    assert [value / length for value in older] == pytest.approx(answer.embeddings[0], abs=1e-3)
    [short] = client.embed("nano", "Hello there.", dimensions=8).embeddings
    assert len(short) == 8
    assert client.embed("nano", "x " * 20000).prompt_eval_count  # cut, as Ollama does


def test_models(client: Client) -> None:
    assert "nano:latest" in names(client)
    shown = client.show("nano")
    assert shown.details is not None
    assert (shown.details.family, shown.details.format) == ("qwen2", "gguf")
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "qwen2"
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities
    assert (shown.modelfile or "").startswith("FROM nano")


def test_a_model_is_made_copied_and_deleted(client: Client) -> None:
    made = client.create(
        "mario", from_="nano", system="You are Mario.", parameters={"temperature": 0, "num_predict": 5}
    )
    assert made.status == "success"
    steps = list(client.create("mario", from_="nano", system="You are Mario, a plumber.", stream=True))
    assert [step.status for step in steps][-1] == "success"
    assert client.copy("mario", "luigi").status == "success"
    assert {"mario:latest", "luigi:latest"} <= names(client)
    assert "plumber" in (client.show("luigi:latest").modelfile or "")
    plain, told = (client.chat(name, messages=HELLO, options=GREEDY) for name in ("nano", "luigi"))
    assert told.prompt_eval_count is not None
    assert plain.prompt_eval_count is not None
    assert told.prompt_eval_count > plain.prompt_eval_count
    for name in ("mario", "luigi:latest"):
        assert client.delete(name).status == "success"
    assert not {"mario:latest", "luigi:latest"} & names(client)
    with pytest.raises(ResponseError) as error:
        client.delete("mario")
    assert error.value.status_code == 404


def test_a_model_with_an_adapter(client: Client, tmp_path: Path) -> None:
    digest = client.create_blob(random_lora(NANO, tmp_path / "odd.gguf", seed=3, strength=3.0))
    client.create("odd-nano", from_="nano", adapters={"odd.gguf": digest})
    odd = chat(client, "odd-nano")
    assert odd.message.content != chat(client).message.content
    assert chat(client, "nano+odd").message.content == odd.message.content  # it has a name of its own too
    client.delete("odd-nano")
    client.delete("nano+odd:latest")
    assert names(client) == {"nano:latest"}


def test_a_model_of_a_file(client: Client) -> None:
    digest = client.create_blob(NANO)
    assert client.create("twin", files={"twin.gguf": digest}).status == "success"
    assert chat(client, "twin").message.content == chat(client).message.content
    client.delete("twin")
    assert names(client) == {"nano:latest"}


def test_a_model_is_pulled_answers_and_leaves(server: RunningServer, client: Client) -> None:
    layers = {"model": NANO.read_bytes(), "system": b"You are Mario.", "params": b'{"num_predict": 3}'}
    with serving() as registry:
        registry.add_model("team/poet/v2", layers)
        name = f"127.0.0.1:{registry.port}/team/poet:v2"
        *_, last = list(client.pull(name, insecure=True, stream=True))
        assert last.status == "success"
        with pytest.raises(ResponseError) as error:
            client.pull(f"127.0.0.1:{registry.port}/team/nobody", insecure=True)
        assert error.value.status_code == 404
    assert chat(client, name, options={"temperature": 0}).eval_count == 3
    assert "Mario" in (client.show(name).modelfile or "")
    pulled = server.home / "models" / "ollama" / "blobs"
    assert any(path.stat().st_size == NANO.stat().st_size for path in pulled.iterdir())
    client.delete(name)
    assert names(client) == {"nano:latest"}
    assert not list(pulled.iterdir())  # and the disk is free again


def test_loading_keeping_and_unloading(client: Client) -> None:
    assert client.generate("nano", keep_alive="1h").done_reason == "load"
    [loaded] = client.ps().models
    assert loaded.model == "nano:latest"
    assert loaded.context_length
    assert loaded.expires_at is not None
    assert loaded.expires_at.timestamp() > time.time() + 3000
    assert client.generate("nano", keep_alive=0).done_reason == "unload"
    assert client.ps().models == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "status", "word"),
    [
        ({"model": "nono"}, 404, "nano"),
        ({"options": {"temperature": -1}}, 400, "temperature"),
        ({"options": {"mirostat": 1}}, 400, "mirostat"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, 400, "context"),
    ],
)
def test_errors(client: Client, stream: bool, more: dict[str, Any], status: int, word: str) -> None:
    with pytest.raises(ResponseError) as error:
        list(chat(client, stream=stream, **more))
    assert error.value.status_code == status
    assert word in error.value.error


def test_what_is_not_done_is_refused(client: Client) -> None:
    with pytest.raises(ResponseError, match="push"):
        client.push("nano")
    with pytest.raises(ResponseError, match="middle"):
        client.generate("nano", "def f():", suffix="return x")


def test_closing_a_stream_ends_the_work(server: RunningServer, client: Client) -> None:
    with left_early(server.url, 900):
        stream = chat(client, stream=True, options={"temperature": 1.5, "num_predict": 900})
        next(stream)
        stream.close()


def test_a_client_that_times_out_ends_the_work(server: RunningServer) -> None:
    long = {"type": "array", "items": {"enum": ["again", "and again"]}, "minItems": 500}
    with (
        left_early(server.url, 900),
        Client(host=server.url, timeout=0.1) as hasty,
        pytest.raises(httpx.TimeoutException),
    ):
        chat(hasty, options={"num_predict": 900}, format=long)


async def test_many_async_streams_at_once(server: RunningServer) -> None:
    import asyncio

    async with AsyncClient(host=server.url) as client:

        async def one(number: int) -> str:
            messages: Any = [{"role": "user", "content": f"Say {number}."}]
            stream = await client.chat("nano", messages=messages, options=GREEDY, stream=True)
            return "".join([piece.message.content or "" async for piece in stream])

        assert all(await asyncio.gather(*(one(number) for number in range(8))))
        assert (await client.embed("nano", "Hello.")).embeddings
        assert (await client.show("nano")).modelinfo
