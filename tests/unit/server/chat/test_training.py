"""What is learned of a conversation: the answers and their marks, in exactly the text that serving uses."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.server.chat import templates
from tests.unit.server.chat.dialects import samples

from llamaleon_server.chat.template import ChatTemplate
from llamaleon_server.chat.training import Segment, training_segments
from llamaleon_server.errors import BadRequest

SYSTEM = {"role": "system", "content": "Sé breve."}
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "¿Uno?"},
    {"role": "assistant", "content": "Respuesta una."},
    {"role": "user", "content": "¿Dos?"},
    {"role": "assistant", "content": "Respuesta dos: 5 €"},
]
# template -> text that an answer begins and ends with
MARKS = {
    "CHATML": ("", "<|im_end|>"),
    "LLAMA_3": ("", "<|eot_id|>"),
    "MISTRAL": ("", "</s>"),
    "GEMMA": ("", "<end_of_turn>"),
    "PHI_3": ("", "<|end|>"),
    "GRANITE": ("", "<|end_of_text|>"),
    "LLAMA_2": (" ", " </s>"),
}


def template(name: str | None) -> ChatTemplate:
    return ChatTemplate(None if name is None else getattr(templates, name), "<s>", "</s>")


def learned(segments: list[Segment]) -> list[str]:
    return [segment.text for segment in segments if segment.weight]


@pytest.mark.parametrize("name", MARKS)
@pytest.mark.parametrize("messages", [CHAT, [SYSTEM, *CHAT], CHAT[:2]], ids=["chat", "system", "one turn"])
def test_answers_with_their_marks_are_learned(name: str, messages: list[dict[str, Any]]) -> None:
    made = template(name)
    segments = training_segments(made, messages)
    begin, end = MARKS[name]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    assert learned(segments) == [f"{begin}{answer}{end}" for answer in answers]
    assert "".join(s.text for s in segments) == made.render(messages, add_generation_prompt=False)
    # Before each answer stands exactly what serving would render to ask for it.
    text, turns = "", [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    for segment in segments:
        if segment.weight:
            assert text == made.render(messages[: turns.pop(0)])
        text += segment.text
    assert not turns


def test_the_fallback_learns_to_stop() -> None:
    assert learned(training_segments(template(None), CHAT)) == [
        "Respuesta una.</s>",
        "Respuesta dos: 5 €</s>",
    ]


def test_without_an_end_token_the_blank_line_is_the_mark() -> None:
    segments = training_segments(ChatTemplate(None), CHAT)
    assert learned(segments) == ["Respuesta una.\n\n", "Respuesta dos: 5 €\n\n"]


@pytest.mark.parametrize("name", ["CHATML", "PHI_3"])
def test_answers_of_weight_zero_are_context(name: str) -> None:
    messages = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]
    segments = training_segments(template(name), messages)
    assert len(learned(segments)) == 1
    assert learned(segments)[0].startswith("Respuesta dos")
    assert "Respuesta una." in segments[0].text


def test_where_earlier_answers_change_only_the_last_is_learned() -> None:
    made = template("QWEN_3")
    segments = training_segments(made, CHAT)
    assert learned(segments) == ["<think>\n\n</think>\n\nRespuesta dos: 5 €<|im_end|>"]
    assert segments[0].text == made.render(CHAT[:3])
    assert "".join(s.text for s in segments) == made.render(CHAT, add_generation_prompt=False)


def test_an_answer_with_its_thinking_is_learned_whole() -> None:
    answer = "<think>\nHm.\n</think>\n\nSí."
    messages = [CHAT[0], {"role": "assistant", "content": answer}]
    assert learned(training_segments(template("QWEN_3"), messages)) == [answer + "<|im_end|>"]


@pytest.mark.parametrize("content", ["in", "4", "think", "im_end"])
def test_an_answer_is_not_mistaken_for_a_part_of_its_thinking_or_mark(content: str) -> None:
    made = samples.template("Qwen-Qwen3-0.6B")
    messages = [CHAT[0], {"role": "assistant", "content": content, "reasoning_content": "2 + 2 is 4."}]
    written = f"<think>\n2 + 2 is 4.\n</think>\n\n{content}<|im_end|>"
    assert learned(training_segments(made, messages)) == [written]


def test_a_last_answer_is_not_mistaken_for_a_part_of_its_mark() -> None:
    messages = [CHAT[0], {"role": "assistant", "content": "of"}]
    segments = training_segments(template("DEEPSEEK_R1"), messages)
    assert learned(segments) == ["of<｜end▁of▁sentence｜>"]


def test_where_the_prompt_opens_a_block_the_answer_follows_the_prompt_that_is_served() -> None:
    made = template("DEEPSEEK_R1")
    segments = training_segments(made, CHAT)
    assert segments[0] == Segment(made.render(CHAT[:3]), 0.0)
    assert segments[0].text.endswith("<｜Assistant｜><think>\n")
    assert learned(segments) == ["Respuesta dos: 5 €<｜end▁of▁sentence｜>"]


def test_equal_answers_are_each_found_at_their_own_place() -> None:
    messages = [
        CHAT[0],
        {"role": "assistant", "content": "Uno"},
        CHAT[2],
        {"role": "assistant", "content": "Uno"},
    ]
    segments = training_segments(template("CHATML"), messages)
    assert [segment.weight for segment in segments] == [0, 1, 0, 1, 0]


def test_an_empty_answer_is_its_mark() -> None:
    messages = [CHAT[0], {"role": "assistant", "content": ""}]
    assert learned(training_segments(template("CHATML"), messages)) == ["<|im_end|>"]


def test_a_conversation_may_go_on_after_the_last_answer() -> None:
    segments = training_segments(template("CHATML"), CHAT[:3])
    assert learned(segments) == ["Respuesta una.<|im_end|>"]
    assert segments[-1].text == "\n<|im_start|>user\n¿Dos?<|im_end|>\n"


def test_no_answer_is_an_error() -> None:
    with pytest.raises(BadRequest, match="no assistant message"):
        training_segments(template("CHATML"), CHAT[:1])
