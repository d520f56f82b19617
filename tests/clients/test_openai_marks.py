"""Calls whose marks are control tokens of the vocabulary: real engine, real client, real templates.

The weights are those of the small model that ships: what it says is noise, what the grammar makes of it is
not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from tests.clients.test_openai_tools import CITY, USER, Weather
from tests.server import RunningServer
from tests.tiny.marked import marked
from tests.unit.server.chat.dialects.samples import TEMPLATES

MODELS = {
    "nemo": ("mistralai-Mistral-Nemo-Instruct-2407", ["[TOOL_CALLS]", "[INST]", "[/INST]"]),
    "devstral": ("unsloth-mistral-Devstral-Small-2507", ["[TOOL_CALLS]", "[ARGS]", "[INST]", "[/INST]"]),
    "gemma4": (
        "google-gemma-4-31B-it",
        ["<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"],
    ),
    "granite3": ("ibm-granite-granite-3.3-2B-Instruct", ["<|tool_call|>", "<|start_of_role|>"]),
    "oss": ("openai-gpt-oss-120b", ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"]),
    "hermes": ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", ["<tool_call>", "</tool_call>"]),
    "coder": ("Qwen3-Coder", ["<tool_call>", "</tool_call>"]),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("marks")
    options = ["--parallel", "2"]
    for name, (template, marks) in MODELS.items():
        text = (TEMPLATES / f"{template}.jinja").read_text("utf-8")
        options += ["--model", str(marked(folder / f"{name}.gguf", text, marks))]
    with RunningServer(folder / "home", options) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60) as made:
        yield made


@pytest.mark.parametrize("model", MODELS)
def test_a_required_call_is_valid_and_its_marks_are_gone(client: OpenAI, model: str) -> None:
    tool: Any = json.loads(json.dumps(CITY))
    # Texts without quotes have no length in a grammar: a list of some ends.
    tool["function"]["parameters"]["properties"]["city"] = {"enum": ["Lima", "Quito"]}
    for seed in range(3):
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "system", "content": "Be brief."}, *USER],
            tools=[tool],
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
            seed=seed,
            max_tokens=400,
            extra_body={"reasoning_effort": "none"},
        )
        [choice] = answer.choices
        if model == "oss" and choice.finish_reason == "length":
            continue  # noise may think for as long as it is let
        assert choice.finish_reason == "tool_calls"
        [call] = choice.message.tool_calls or []
        assert call.type == "function"
        Weather.model_validate_json(call.function.arguments)
        assert choice.message.content is None or "[" not in choice.message.content
