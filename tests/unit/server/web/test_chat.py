"""`/v1/chat/completions`: shapes, fields and what the engine is asked, over the fake engine."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.api import Api, error_of, events
from tests.unit.server.registry.small import write_base

from llamaleon_server.engine.protocol import Generate

ANSWER = "Hola, ¿qué tal?"  # 15 characters, so 15 tokens of the fake
PROMPT = "<|im_start|>user\n¿Qué tal?<|im_end|>\n<|im_start|>assistant\n"


def asked(api: Api) -> list[Generate]:
    return [message for message in api.engines.last.received if isinstance(message, Generate)]


async def test_a_plain_answer_has_openais_shape_and_exact_counts(api: Api) -> None:
    response = await api.chat()
    answer = ChatCompletion.model_validate(response.json(), strict=True)
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "tiny"
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == ANSWER
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(PROMPT) + 1  # the fake adds BOS: the text has none
    assert answer.usage.completion_tokens == len(ANSWER)
    assert answer.usage.total_tokens == len(PROMPT) + 1 + len(ANSWER)
    assert response.json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert response.json()["timings"]["predicted_n"] == len(ANSWER)
    assert api.prompts() == [PROMPT]


async def test_a_stream_is_role_content_finish_done(api: Api) -> None:
    *chunks, done = events(await api.chat(stream=True, max_tokens=4))
    assert done == "[DONE]"
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert "usage" not in chunk
        assert chunk["object"] == "chat.completion.chunk"
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        *({"content": character} for character in "Hola"),
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["length"]


async def test_usage_comes_in_a_last_chunk_without_choices(api: Api) -> None:
    *chunks, last, done = events(await api.chat(stream=True, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(ANSWER)
    ChatCompletionChunk.model_validate(last, strict=True)


async def test_n_choices_run_beside_each_other_with_their_own_seeds(api: Api) -> None:
    api.engines.answer = lambda message: f"seed {message.sampling.seed}"
    response = await api.chat(n=3, seed=7)
    texts = [choice["message"]["content"] for choice in response.json()["choices"]]
    assert texts == ["seed 7", "seed 8", "seed 9"]
    usage = response.json()["usage"]
    assert usage["prompt_tokens"] == len(PROMPT) + 1  # counted once
    assert usage["completion_tokens"] == 3 * len("seed 7")
    *chunks, _ = events(await api.chat(n=3, seed=7, stream=True))
    streamed = dict.fromkeys(range(3), "")
    for chunk in chunks:
        [choice] = chunk["choices"]
        streamed[choice["index"]] += choice["delta"].get("content", "")
    assert list(streamed.values()) == texts
    assert sum(chunk["choices"][0]["finish_reason"] == "stop" for chunk in chunks) == 3


async def test_logprobs_have_openais_shape(api: Api) -> None:
    response = await api.chat(logprobs=True, top_logprobs=2, max_tokens=2)
    answer = ChatCompletion.model_validate(response.json(), strict=True)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [item.token for item in logprobs.content] == ["H", "o"]
    assert logprobs.content[0].logprob == -0.25
    assert logprobs.content[0].bytes == [72]
    assert [top.token for top in logprobs.content[0].top_logprobs] == ["H", "I"]
    *chunks, _ = events(await api.chat(logprobs=True, max_tokens=2, stream=True))
    assert chunks[1]["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


async def test_every_field_reaches_the_engine(api: Api) -> None:
    await api.chat(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        seed=11,
        stop=["\n", "fin"],
        max_completion_tokens=3,
        max_tokens=99,
        frequency_penalty=0.1,
        presence_penalty=-0.2,
        repeat_penalty=1.1,
        logit_bias={"65": -100, "66": 1.5},
        ignore_eos=True,
        cache_prompt=False,
    )
    [message] = asked(api)
    sampling = message.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.05)
    assert (sampling.seed, sampling.frequency_penalty, sampling.presence_penalty) == (11, 0.1, -0.2)
    assert sampling.repeat_penalty == 1.1
    assert sampling.logit_bias == {65: -100.0, 66: 1.5}
    assert message.stop == ("\n", "fin")
    assert (message.max_tokens, message.ignore_eos, message.cache_prompt) == (3, True, False)


async def test_nulls_are_defaults_and_harmless_fields_are_ignored(api: Api) -> None:
    fields = ("temperature", "top_p", "seed", "stop", "n", "logit_bias", "stream", "tools", "response_format")
    nothing: dict[str, Any] = dict.fromkeys(fields)
    response = await api.chat(
        **nothing,
        user="yo",
        store=True,
        metadata={"a": "b"},
        service_tier="auto",
        parallel_tool_calls=True,
        reasoning_effort="low",
        modalities=["text"],
        tool_choice="auto",
        something_unknown=[1],
    )
    assert response.status_code == 200, response.text
    [message] = asked(api)
    assert message.sampling.temperature == 1.0
    assert message.sampling.seed is None


async def test_a_stop_string_ends_the_answer(api: Api) -> None:
    response = await api.chat(stop="¿")
    [choice] = response.json()["choices"]
    assert choice["message"]["content"] == "Hola, "
    assert choice["finish_reason"] == "stop"


async def test_text_parts_and_the_developer_role_are_understood(api: Api) -> None:
    parts = [{"type": "text", "text": "Hola "}, {"type": "text", "text": "mundo"}]
    messages = [{"role": "developer", "content": "Sé breve."}, {"role": "user", "content": parts}]
    await api.chat(messages=messages)
    assert api.prompts()[0].startswith(
        "<|im_start|>system\nSé breve.<|im_end|>\n<|im_start|>user\nHola mundo<"
    )


async def test_a_model_without_a_template_gets_the_plain_fallback(api: Api) -> None:
    await api.chat("Hola", model="bare")
    assert api.prompts() == ["User:\nHola\n\nAssistant:\n"]
    listed = {
        model["id"]: model["chat_template"] for model in (await api.http.get("/v1/models")).json()["data"]
    }
    assert listed["bare"] == "fallback"
    assert listed["tiny"] == "model"


IMAGE = [{"type": "image_url", "image_url": {"url": "data:"}}]
MESSAGE = {"role": "user", "content": "Hola"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def calling(arguments: str) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


CALLING = calling("{}")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [MESSAGE, {"role": "user", "content": 3}]}, "messages[1].content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": IMAGE}]}, "messages[0].content[0].image_url.url"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{**CALLING, "role": "user", "content": ""}]}, "messages[0].tool_calls"),
        ({"messages": [calling("{")]}, "messages[0].tool_calls[0].function.arguments"),
        ({"messages": [calling("[1]")]}, "messages[0].tool_calls[0].function.arguments"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0].function.name"),
        ({"tools": TOOLS * 2}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes", "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": {"type": "function"}, "tools": TOOLS}, "tool_choice.function"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "f"}}, "tools": TOOLS}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": TOOLS}, "tool_choice.allowed_tools"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call"),
        ({"functions": [{"name": "f"}], "tools": TOOLS}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"lora": [{"id": "nobody", "scale": 1}]}, "lora"),
        ({"model": 3}, "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_field_is_named(api: Api, body: dict[str, Any], param: str) -> None:
    response = await api.chat(**body)
    assert response.status_code in {400, 404}
    error = error_of(response)
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param)
    assert param.rpartition(".")[2].split("[")[0] in error["message"]
    assert not api.engines.opened


async def test_a_missing_model_is_named(api: Api) -> None:
    response = await api.post("/v1/chat/completions", messages=[MESSAGE])
    assert error_of(response)["param"] == "model"


async def test_a_template_that_raises_is_a_400_in_its_own_words(api: Api, tmp_path: Any) -> None:
    strict = "{{ raise_exception('Roles must alternate.') if messages|length > 1 else 'ok' }}"
    api.services.registry.add_base(write_base(tmp_path / "strict.gguf", template=strict))
    response = await api.chat(model="strict", messages=[MESSAGE, MESSAGE])
    assert response.status_code == 400
    assert "Roles must alternate." in error_of(response)["message"]
    assert error_of(response)["param"] == "messages"
