"""Models of several makers, and what they answer, over `/v1/chat/completions`."""

from __future__ import annotations

from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.api import Api, events
from tests.unit.server.chat.dialects.matching import Matching

from llamaleon_server.engine.protocol import Generate

TEMPLATE = {
    "qwen3": "Qwen-Qwen3-0.6B",
    "qwen35": "Qwen3.5-4B",
    "oss": "openai-gpt-oss-120b",
    "gemma": "google-gemma-2-2b-it",
    "nemo": "mistralai-Mistral-Nemo-Instruct-2407",
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "get_time", "description": "The time."}},
]
LIMA = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Lima"}}\n</tool_call>'
QUITO = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Quito"}}\n</tool_call>'


async def ask(api: Api, answer: str, /, model: str = "qwen3", **more: Any) -> Any:
    """The first choice's message and finish reason."""
    api.engines.answer = lambda message: answer
    response = await api.chat(model=model, **more)
    assert response.status_code == 200, response.text
    whole = ChatCompletion.model_validate(response.json(), strict=True)
    assert await streamed(api, model=model, **more) == summed(response.json())
    return whole.choices[0]


def summed(answer: Any) -> Any:
    """What a stream of the same answer must come to."""
    choice = answer["choices"][0]
    message = choice["message"]
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])
    ]
    if legacy := message.get("function_call"):
        calls.append((legacy["name"], legacy["arguments"]))
    thinking = message.get("reasoning_content", "")
    return message["content"] or "", thinking, calls, choice["finish_reason"]


async def streamed(api: Api, **more: Any) -> Any:
    """Accumulated as clients do."""
    *chunks, _ = events(await api.chat(stream=True, **more))
    text, thinking, reason = "", "", None
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        for choice in chunk["choices"]:
            delta = choice["delta"]
            text += delta.get("content", "")
            thinking += delta.get("reasoning_content", "")
            for call in delta.get("tool_calls", []):
                if "id" in call:
                    assert call["type"] == "function"
                    calls[call["index"]] = [call["function"]["name"], ""]
                calls[call["index"]][1] += call["function"]["arguments"]
            if legacy := delta.get("function_call"):
                calls.setdefault(0, [legacy.get("name", ""), ""])[1] += legacy["arguments"]
            reason = choice["finish_reason"] or reason
    return text, thinking, [tuple(call) for call in calls.values()], reason


def sent(api: Api) -> Generate:
    """The last request that the engine got."""
    return [message for message in api.engines.last.received if isinstance(message, Generate)][-1]


def taken(api: Api, text: str) -> bool:
    """Whether the grammar that the engine got lets a text through."""
    grammar = sent(api).grammar
    assert grammar is not None
    return Matching(grammar).whole(text)
