"""litellm: the `openai/` provider with `api_base`."""

from __future__ import annotations

import json

import litellm
from steps import (
    ADAPTER,
    ANSWER,
    BASE_URL,
    CITY,
    KEY,
    MODEL,
    PERSON,
    QUESTION,
    SCRIPTED_BASE_URL,
    SCRIPTED_MODEL,
    UNKNOWN,
    WEATHER,
    WEATHER_TOOL,
    run,
    wait_until_idle,
)

MESSAGES = [{"role": "user", "content": QUESTION}]


def ask(model=MODEL, messages=MESSAGES, url=BASE_URL, **more):
    return litellm.completion(
        model=f"openai/{model}", api_base=url, api_key=KEY, messages=messages, num_retries=0, **more
    )


def chat():
    answer = ask(temperature=0, max_tokens=12)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 12


def stream():
    chunks = list(ask(temperature=0, max_tokens=12, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == ask(temperature=0, max_tokens=12).choices[0].message.content


def tools():
    tool = [WEATHER_TOOL]
    messages = [{"role": "user", "content": f"¿Qué tiempo hace en {CITY}?"}]
    first = ask(SCRIPTED_MODEL, messages, SCRIPTED_BASE_URL, tools=tool).choices[0]
    assert first.finish_reason == "tool_calls"
    [call] = first.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": CITY})
    messages += [
        first.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": WEATHER},
    ]
    second = ask(SCRIPTED_MODEL, messages, SCRIPTED_BASE_URL, tools=tool).choices[0]
    assert second.message.content == ANSWER
    required = ask(tools=tool, tool_choice="required", temperature=1, max_tokens=200).choices[0]
    assert "city" in json.loads(required.message.tool_calls[0].function.arguments)


def structured():
    schema = {"name": "person", "schema": PERSON, "strict": True}
    answer = ask(response_format={"type": "json_schema", "json_schema": schema}, max_tokens=200)
    assert set(json.loads(answer.choices[0].message.content)) == {"name", "age"}


def embeddings():
    answer = litellm.embedding(
        model=f"openai/{MODEL}", api_base=BASE_URL, api_key=KEY, input=["hola", "adiós"]
    )
    first, second = (item["embedding"] for item in answer.data)
    assert len(first) == len(second) > 0
    assert first != second


def adapter():
    plain, adapted = (ask(model, temperature=0, max_tokens=12) for model in (MODEL, ADAPTER))
    assert plain.choices[0].message.content != adapted.choices[0].message.content


def errors():
    try:
        ask(UNKNOWN)
    except litellm.NotFoundError as error:
        assert "does not exist" in str(error)
    else:
        raise AssertionError("no error")


def cancellation():
    answer = iter(ask(stream=True, ignore_eos=True, max_tokens=900))
    next(answer)
    answer.completion_stream.close()
    wait_until_idle()


run("litellm", chat, stream, tools, structured, embeddings, adapter, errors, cancellation)
