"""langchain-openai: `ChatOpenAI` and `OpenAIEmbeddings` with `base_url`."""

from __future__ import annotations

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field
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
    WEATHER_TOOL,
    run,
    wait_until_idle,
)


class Person(BaseModel, extra="forbid"):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=150)


def model(name=MODEL, url=BASE_URL, **more):
    return ChatOpenAI(
        model=name, base_url=url, api_key=KEY, max_retries=0, **{"temperature": 0, "max_tokens": 12, **more}
    )


def chat():
    answer = model().invoke(QUESTION)
    assert answer.content
    assert answer.usage_metadata["output_tokens"] == 12


def stream():
    text = "".join(chunk.content for chunk in model().stream(QUESTION))
    assert text == model().invoke(QUESTION).content


def tools():
    bound = model(SCRIPTED_MODEL, SCRIPTED_BASE_URL, max_tokens=None).bind_tools([WEATHER_TOOL])
    question = HumanMessage(f"¿Qué tiempo hace en {CITY}?")
    first = bound.invoke([question])
    [call] = first.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": CITY})
    assert bound.invoke([question, first, ToolMessage(WEATHER, tool_call_id=call["id"])]).content == ANSWER
    streamed = None
    for chunk in bound.stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    assert [one["args"] for one in streamed.tool_calls] == [{"city": CITY}]
    forced = model(max_tokens=200).bind_tools([WEATHER_TOOL], tool_choice="weather").invoke(QUESTION)
    assert "city" in forced.tool_calls[0]["args"]


def structured():
    for method in ("json_schema", "function_calling"):
        found = model(max_tokens=200).with_structured_output(Person, method=method).invoke(QUESTION)
        assert isinstance(found, Person), method


def embeddings():
    maker = OpenAIEmbeddings(model=MODEL, base_url=BASE_URL, api_key=KEY, check_embedding_ctx_length=False)
    first, second = maker.embed_documents(["hola", "adiós"])
    assert len(first) == len(second) > 0
    assert maker.embed_query("hola")[:4] == first[:4]


def adapter():
    assert model(ADAPTER).invoke(QUESTION).content != model().invoke(QUESTION).content


def errors():
    try:
        model(UNKNOWN).invoke(QUESTION)
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("no error")


def cancellation():
    answer = model(max_tokens=900, extra_body={"ignore_eos": True}).stream(QUESTION)
    next(answer)
    answer.close()
    wait_until_idle()


run("langchain-openai", chat, stream, tools, structured, embeddings, adapter, errors, cancellation)
