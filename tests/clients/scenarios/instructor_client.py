"""instructor over the `openai` package, by tool calls and by JSON schema."""

from __future__ import annotations

import instructor
import openai
from pydantic import BaseModel, Field
from steps import (
    ADAPTER,
    BASE_URL,
    KEY,
    MODEL,
    QUESTION,
    UNKNOWN,
    NotApplicable,
    run,
)

MESSAGES = [{"role": "user", "content": QUESTION}]


class Person(BaseModel, extra="forbid"):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=150)


def client(mode=instructor.Mode.TOOLS):
    return instructor.from_openai(OPENAI, mode=mode)


OPENAI = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)


def ask(mode=instructor.Mode.TOOLS, model=MODEL, **more):
    return client(mode).create(
        model=model, messages=MESSAGES, response_model=Person, max_retries=0, max_tokens=200, **more
    )


def chat():
    raise NotApplicable("instructor asks for objects only")


def stream():
    *_, last = client(instructor.Mode.JSON_SCHEMA).create_partial(
        model=MODEL, messages=MESSAGES, response_model=Person, max_tokens=200
    )
    assert last.name is not None


def tools():
    assert isinstance(ask(), Person)


def structured():
    assert isinstance(ask(instructor.Mode.JSON_SCHEMA), Person)


def embeddings():
    raise NotApplicable("instructor has no embeddings")


def adapter():
    assert isinstance(ask(model=ADAPTER), Person)


def errors():
    try:
        ask(model=UNKNOWN)
    except Exception as error:
        assert "does not exist" in str(error), error
    else:
        raise AssertionError("no error")


def cancellation():
    raise NotApplicable("instructor reads a stream to its end before it hands anything out")


run("instructor", chat, stream, tools, structured, embeddings, adapter, errors, cancellation)
