"""Which dialect a real template belongs to, and what of tools it shows itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.server.chat.dialects.samples import TEMPLATES, template

from llamaleon_server.chat.dialects import known
from llamaleon_server.chat.dialects.hermes import Hermes
from llamaleon_server.chat.prompt import manner_of
from llamaleon_server.chat.template import ChatTemplate

# dialect, what the template shows of (tools, calls, results), mark before thinking
EXPECTED = {
    "GLM-4.6": ("generic", "", "<think>"),
    "HuggingFaceTB-SmolLM3-3B": ("hermes", "results", "<think>"),
    "LFM2.5-Instruct": ("generic", "", "<think>"),
    "Mistral-Small-3.2-24B-Instruct-2506": ("mistral-identified", "tools calls results", None),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("qwen-coder", "tools calls results", "<think>"),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ("hermes", "tools calls results", None),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", "tools calls results", None),
    "Qwen-QwQ-32B": ("hermes", "tools calls results", "<think>"),
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", "tools calls results", None),
    "Qwen-Qwen3-0.6B": ("hermes", "tools calls results", "<think>"),
    "Qwen3-Coder": ("qwen-coder", "tools calls results", None),
    "Qwen3.5-4B": ("qwen-coder", "tools calls results", "<think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("generic", "", "<think>"),
    "deepseek-ai-DeepSeek-V3.1": ("generic", "", "<think>"),
    "google-gemma-2-2b-it": ("generic", "", None),
    "google-gemma-4-31B-it": ("gemma", "tools calls results", "<|channel>thought"),
    "google-gemma-4-31B-it-interleaved": ("gemma", "tools calls results", "<|channel>thought"),
    "ibm-granite-granite-3.3-2B-Instruct": ("granite", "tools results", "<think>"),
    "ibm-granite-granite-4.0": ("hermes", "tools calls results", None),
    "ibm-granite-granite-4.1": ("hermes", "tools calls results", None),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama", "tools calls results", None),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama", "tools calls results", None),
    "meta-llama-Llama-3.3-70B-Instruct": ("llama", "tools calls results", None),
    "microsoft-Phi-3.5-mini-instruct": ("generic", "", None),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("mistral-named", "tools calls results", "[THINK]"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral", "tools calls results", None),
    "moonshotai-Kimi-K2": ("generic", "", None),
    "openai-gpt-oss-120b": ("harmony", "tools calls results", "<|channel|>analysis<|message|>"),
    "unsloth-mistral-Devstral-Small-2507": ("mistral-named", "tools calls results", None),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_real_templates(name: str) -> None:
    manner = manner_of(template(name))
    shown = {"tools": manner.shows_tools, "calls": manner.shows_calls, "results": manner.shows_results}
    assert (
        manner.dialect.name,
        " ".join(what for what, is_shown in shown.items() if is_shown),
        manner.tags.begin if manner.tags else None,
    ) == EXPECTED[name]


def test_all_templates_here_are_expected() -> None:
    assert {path.stem for path in TEMPLATES.glob("*.jinja")} == EXPECTED.keys()


def test_plain_chatml_and_no_template_at_all() -> None:
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    assert manner_of(ChatTemplate(chatml)).dialect.name == "hermes"  # most models with ChatML know it
    for nothing in (None, "{% for <|im_start|> <think></think>"):
        manner = manner_of(ChatTemplate(nothing))
        assert (manner.dialect.name, manner.tags) == ("generic", None)


class Own(Hermes):
    name = "own"

    def detects(self, template: str) -> bool:
        return "own-mark" in template


class Entry:
    name = "own"
    value = "package:Own"

    def load(self) -> type[Own]:
        return Own


class Broken(Entry):
    def load(self) -> type[Own]:
        raise ImportError("no such module")


class Foreign(Entry):
    def load(self) -> type[Own]:
        return int  # type: ignore[return-value]  # what a wrong entry point names


@pytest.fixture
def fresh() -> Iterator[None]:
    known.dialects.cache_clear()
    yield
    known.dialects.cache_clear()


def test_other_packages_add_dialects_and_broken_ones_do_no_harm(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(known, "entry_points", lambda group: [Broken(), Foreign(), Entry()])
    assert manner_of(ChatTemplate("own-mark {{ messages[0].content }}")).dialect.name == "own"
    assert len([record for record in caplog.records if "cannot be loaded" in record.message]) == 2
    assert known.dialects()[0].name == "own"
