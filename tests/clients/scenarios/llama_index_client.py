"""llama-index: `OpenAILike`, for the model and for embeddings."""

from __future__ import annotations

import openai
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field
from steps import (
    ADAPTER,
    BASE_URL,
    CITY,
    KEY,
    MODEL,
    QUESTION,
    SCRIPTED_BASE_URL,
    SCRIPTED_MODEL,
    UNKNOWN,
    WEATHER,
    run,
    wait_until_idle,
)


class Person(BaseModel, extra="forbid"):
    """A person."""

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=150)


def model(name=MODEL, url=BASE_URL, **more):
    return OpenAILike(
        model=name,
        api_base=url,
        api_key=KEY,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=1024,
        max_retries=0,
        **{"temperature": 0, "max_tokens": 12, **more},
    )


def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: {WEATHER}"


def messages(text=QUESTION):
    return [ChatMessage(role="user", content=text)]


def chat():
    assert model().chat(messages()).message.content


def stream():
    *_, last = model().stream_chat(messages())
    assert last.message.content == model().chat(messages()).message.content


def tools():
    tool = FunctionTool.from_defaults(weather)
    asked = f"¿Qué tiempo hace en {CITY}?"
    answer = model(SCRIPTED_MODEL, SCRIPTED_BASE_URL, max_tokens=None).predict_and_call([tool], asked)
    assert str(answer) == weather(CITY)
    llm = model(max_tokens=200)
    forced = llm.chat_with_tools([tool], QUESTION, tool_required=True)
    [call] = llm.get_tool_calls_from_response(forced)
    assert call.tool_name == "weather"


def structured():
    found = model(max_tokens=200).as_structured_llm(Person).chat(messages())
    assert isinstance(found.raw, Person)


def embeddings():
    maker = OpenAILikeEmbedding(model_name=MODEL, api_base=BASE_URL, api_key=KEY)
    first, second = maker.get_text_embedding_batch(["hola", "adiós"])
    assert len(first) == len(second) > 0
    assert first != second


def adapter():
    plain, adapted = (model(name).chat(messages()).message.content for name in (MODEL, ADAPTER))
    assert plain != adapted


def errors():
    try:
        model(UNKNOWN).chat(messages())
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("no error")


def cancellation():
    more = {"extra_body": {"ignore_eos": True}}
    answer = model(max_tokens=900, additional_kwargs=more).stream_chat(messages())
    next(answer)
    answer.close()
    wait_until_idle()


PACKAGE = "llama-index-llms-openai-like"
run(PACKAGE, chat, stream, tools, structured, embeddings, adapter, errors, cancellation)
