"""pydantic-ai: an agent on `OpenAIChatModel` with a provider of our address."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from steps import (
    ADAPTER,
    ANSWER,
    BASE_URL,
    CITY,
    KEY,
    MODEL,
    QUESTION,
    SCRIPTED_BASE_URL,
    SCRIPTED_MODEL,
    UNKNOWN,
    WEATHER,
    NotApplicable,
    run,
    wait_until_idle,
)


class Person(BaseModel, extra="forbid"):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=150)


def agent(name=MODEL, url=BASE_URL, max_tokens=12, output=str, **more):
    model = OpenAIChatModel(name, provider=OpenAIProvider(base_url=url, api_key=KEY))
    settings = {"temperature": 0, "max_tokens": max_tokens, **more}
    return Agent(model, output_type=output, model_settings=settings, retries=0)


def chat():
    assert agent().run_sync(QUESTION).output


def stream():
    async def read():
        async with agent().run_stream(QUESTION) as answer:
            return [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]

    assert "".join(asyncio.run(read())) == agent().run_sync(QUESTION).output


def tools():
    talking = agent(SCRIPTED_MODEL, SCRIPTED_BASE_URL, max_tokens=300)

    @talking.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        assert city == CITY
        return WEATHER

    assert talking.run_sync(f"¿Qué tiempo hace en {CITY}?").output == ANSWER


def structured():
    for output in (Person, NativeOutput(Person)):  # by a tool call, by a JSON schema
        assert isinstance(agent(output=output, max_tokens=200).run_sync(QUESTION).output, Person)


def embeddings():
    raise NotApplicable("covered by the openai package, which it uses")


def adapter():
    assert agent(ADAPTER).run_sync(QUESTION).output != agent().run_sync(QUESTION).output


def errors():
    try:
        agent(UNKNOWN).run_sync(QUESTION)
    except ModelHTTPError as error:
        assert error.status_code == 404
        assert error.body["code"] == "model_not_found"
    else:
        raise AssertionError("no error")


def cancellation():
    async def leave():
        async with agent(max_tokens=900, extra_body={"ignore_eos": True}).run_stream(QUESTION) as answer:
            async for _ in answer.stream_text(delta=True, debounce_by=None):
                break

    asyncio.run(leave())
    wait_until_idle()


run("pydantic-ai-slim", chat, stream, tools, structured, embeddings, adapter, errors, cancellation)
