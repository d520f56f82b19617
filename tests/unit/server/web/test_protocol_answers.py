"""Thinking and tool calls, from what a model writes to Anthropic's blocks and Ollama's lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from anthropic.types import Message
from tests.api import CHATML, Api, running_api
from tests.unit.server.registry.small import write_base

from llamaleon_server.engine.protocol import Generate
from llamaleon_server.testing import FakeEngines

THINKS = CHATML + "{# <think></think> enable_thinking #}"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Lima"}}\n</tool_call>'
WRITTEN = f"<think>\nA city.\n</think>\n\nLet me see.\n{CALL}\n{CALL}"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HELLO = [{"role": "user", "content": "?"}]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    tiny = write_base(tmp_path / "tiny.gguf", template=THINKS)
    engines = FakeEngines(answer=lambda message: WRITTEN, context_tokens=4096)
    async with running_api(tmp_path / "home", tiny, engines=engines) as running:
        yield running


def asked(api: Api) -> Generate:
    [*_, last] = [message for message in api.engines.last.received if isinstance(message, Generate)]
    return last


async def messages(api: Api, **more: Any) -> Any:
    tool = {"name": "weather", "input_schema": PARAMETERS}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    body = {"model": "tiny", "max_tokens": 900, "messages": HELLO, "tools": [tool], "thinking": thinking}
    return await api.post("/v1/messages", **{**body, **more})


async def chat(api: Api, **more: Any) -> Any:
    tool = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
    return await api.post("/api/chat", **{"model": "tiny", "messages": HELLO, "tools": [tool], **more})


async def test_blocks_of_a_whole_message(api: Api) -> None:
    message = Message.model_validate((await messages(api)).json(), strict=True)
    thinking, text, one, two = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking.strip() == "A city."
    assert thinking.signature
    assert text.type == "text"
    assert text.text.strip() == "Let me see."
    assert one.type == two.type == "tool_use"
    assert (one.name, one.input) == ("weather", {"city": "Lima"})
    assert one.id != two.id
    assert message.stop_reason == "tool_use"
    details = message.usage.output_tokens_details
    assert details is not None
    assert 0 < details.thinking_tokens < message.usage.output_tokens


async def test_a_streamed_message_adds_up_to_the_whole_one(api: Api) -> None:
    whole = (await messages(api)).json()
    blocks: list[dict[str, Any]] = []
    for line in (await messages(api, stream=True)).text.split("\n"):
        if not line.startswith("data: "):
            continue
        event = json.loads(line.removeprefix("data: "))
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            for field, value in event["delta"].items():
                if field == "partial_json":
                    blocks[event["index"]]["json"] = blocks[event["index"]].get("json", "") + value
                elif field != "type":
                    blocks[event["index"]][field] += value
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("json"))
    ids = [block.pop("id") for block in [*blocks, *whole["content"]] if "id" in block]
    assert len(set(ids)) == 4
    assert blocks == whole["content"]


async def test_hidden_thinking_comes_back_with_the_next_turn(api: Api) -> None:
    hidden = {"type": "adaptive", "display": "omitted"}
    answer = await messages(api, thinking=hidden)
    assert "A city." not in answer.text
    content = answer.json()["content"]
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "18"}
        for block in content
        if block["type"] == "tool_use"
    ]
    turns = [*HELLO, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
    again = await messages(api, messages=turns)
    assert again.status_code == 200, again.text


async def test_a_required_call_reaches_the_engine_as_a_grammar(api: Api) -> None:
    await messages(api, tool_choice={"type": "tool", "name": "weather"})
    assert "weather" in (asked(api).grammar or "")
    await messages(api, tool_choice={"type": "none"})
    assert "weather" not in str(asked(api).prompt)
    wrong = await messages(
        api,
        tools=[{"name": "x", "strict": True, "input_schema": {"properties": {"a": {"type": "x"}}}}],
        tool_choice={"type": "any"},
    )
    assert wrong.status_code == 400
    assert "tools[0].input_schema" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_and_calls_in_ollamas_words(api: Api, stream: bool) -> None:
    response = await chat(api, stream=stream, think=True)
    lines = [ollama.ChatResponse.model_validate_json(line) for line in response.text.splitlines()]
    assert "".join(line.message.thinking or "" for line in lines).strip() == "A city."
    assert "".join(line.message.content or "" for line in lines).strip() == "Let me see."
    calls = [call for line in lines for call in line.message.tool_calls or []]
    assert [call.function.arguments for call in calls] == [{"city": "Lima"}] * 2
    assert (lines[-1].done, lines[-1].done_reason) == (True, "stop")


async def test_a_generation_thinks_too(api: Api) -> None:
    api.engines.answer = lambda message: "<think>\nHm.\n</think>\n\nSo."
    answer = (await api.post("/api/generate", model="tiny", prompt="?", stream=False)).json()
    assert (answer["thinking"].strip(), answer["response"].strip()) == ("Hm.", "So.")
    raw = await api.post("/api/generate", model="tiny", prompt="?", stream=False, raw=True)
    assert raw.json()["response"].startswith("<think>")


async def test_what_a_model_can_is_shown(api: Api) -> None:
    shown = (await api.post("/api/show", model="tiny")).json()
    assert shown["capabilities"] == ["completion", "thinking"]
