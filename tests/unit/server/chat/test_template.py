"""Rendering as Hugging Face does it, on real templates; hostile and odd ones are contained."""

from __future__ import annotations

import time

import pytest
from tests.unit.server.chat import templates

from llamaleon_server.chat.template import ChatTemplate, TemplateRefused

SYSTEM = {"role": "system", "content": "Sé breve."}
USER = {"role": "user", "content": "¿Qué?"}
ANSWER = {"role": "assistant", "content": "¡Ñu! 5 €"}


def template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, "<s>", "</s>")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            templates.CHATML,
            "<|im_start|>system\nSé breve.<|im_end|>\n<|im_start|>user\n¿Qué?<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            templates.LLAMA_3,
            "<s><|start_header_id|>system<|end_header_id|>\n\nSé breve.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n¿Qué?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (templates.MISTRAL, "<s>[INST] Sé breve.\n\n¿Qué? [/INST]"),
        (
            templates.GEMMA,
            "<s><start_of_turn>user\nSé breve.\n\n¿Qué?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (templates.PHI_3, "<|system|>\nSé breve.<|end|>\n<|user|>\n¿Qué?<|end|>\n<|assistant|>\n"),
        (templates.LLAMA_2, "<s>[INST] <<SYS>>\nSé breve.\n<</SYS>>\n\n¿Qué? [/INST]"),
        (None, "System:\nSé breve.\n\nUser:\n¿Qué?\n\nAssistant:\n"),
    ],
    ids=["chatml", "llama3", "mistral", "gemma", "phi3", "llama2", "fallback"],
)
def test_a_system_message_reaches_every_model(source: str | None, expected: str) -> None:
    assert template(source).render([SYSTEM, USER]) == expected


@pytest.mark.parametrize("name", ["CHATML", "LLAMA_3", "MISTRAL", "GEMMA", "PHI_3", "LLAMA_2", "QWEN_3"])
def test_it_renders_as_transformers_does(name: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    source = getattr(templates, name)
    for messages in ([USER], [USER, ANSWER, USER], [USER, ANSWER]):
        for generation in (False, True):
            [expected], _ = utils.render_jinja_template(
                conversations=[messages],
                chat_template=source,
                add_generation_prompt=generation,
                bos_token="<s>",
                eos_token="</s>",
            )
            assert template(source).render(messages, add_generation_prompt=generation) == expected


def test_a_template_that_drops_the_system_message_gets_it_folded_in() -> None:
    silent = "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    assert template(silent).render([SYSTEM, USER]) == "[user] Sé breve.\n\n¿Qué?\n"
    assert template(silent).render([SYSTEM]) == "[user] Sé breve.\n"


def test_the_templates_own_words_are_the_error() -> None:
    with pytest.raises(TemplateRefused, match="roles must alternate") as error:
        template(templates.GEMMA).render([USER, USER])
    assert error.value.status == 400
    assert error.value.param == "messages"


def test_whether_the_text_brings_its_own_bos() -> None:
    for source, expected in ((templates.LLAMA_3, True), (templates.CHATML, False), (None, False)):
        made = template(source)
        assert made.begins_with_bos(made.render([USER])) is expected
    assert ChatTemplate(templates.LLAMA_3, "", "").begins_with_bos("text") is False


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "¿Qué?"}]'),
        ("{{ {'b': 1, 'a': '<'} | tojson(indent=2) }}", '{\n  "b": 1,\n  "a": "<"\n}'),
        ("{% for m in messages * 3 %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}", "x"),
        ("{% generation %}x{{ eos_token }}{% endgeneration %}", "x</s>"),
        ("{{ strftime_now('%%') }}", "%"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{{ tools is none }}{{ documents is none }}{{ undefined_thing }}", "TrueTrue"),
    ],
)
def test_what_templates_rely_on(source: str, expected: str) -> None:
    assert template(source).render([USER]) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 3 }}",
    ],
)
def test_hostile_or_broken_templates_are_a_400(source: str) -> None:
    with pytest.raises(TemplateRefused):
        template(source).render([USER])


def test_a_template_that_does_not_compile_gives_the_fallback_and_the_reason() -> None:
    made = template("{% for m in %}")
    assert made.is_fallback
    assert made.problem is not None
    assert "line 1" in made.problem
    assert made.render([USER]) == "User:\n¿Qué?\n\nAssistant:\n"


def test_the_fallback_ends_answers_so_that_they_can_be_learned() -> None:
    text = template(None).render([USER, ANSWER], add_generation_prompt=False)
    assert text == "User:\n¿Qué?\n\nAssistant:\n¡Ñu! 5 €</s>\n\n"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in [[1] * 99] recursive %}{% if a is sequence %}{{ loop(a * 99) }}{% endif %}"
        "{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(s='x' * 1000) %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='x' * 1000) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ 'x'.ljust(10 ** 12) }}",
        "{{ 'x' | center(10 ** 12) }}",
        "{{ '%999999999999d' % 1 }}",
        "{{ '{:999999999999}'.format(1) }}",
        "{% set s = 'x' * 999999 %}{{ s.replace('x', s) }}",
        "{% set s = 'x' * 999999 %}{{ s | replace('x', s) }}",
        "{% set s = 'x' * 999999 %}{{ s.join([''] * 99999) }}",
        "{% set s = 'x' * 999999 %}{{ ([''] * 99999) | join(s) }}",
    ],
    ids=lambda source: source[-40:],
)
def test_hostile_templates_end_soon(source: str) -> None:
    began = time.monotonic()
    with pytest.raises(TemplateRefused):
        template(source).render([USER])
    assert time.monotonic() - began < 30


def test_a_long_conversation_is_no_hostile_one() -> None:
    messages = [
        {"role": role, "content": "word " * 200} for _ in range(1000) for role in ("user", "assistant")
    ]
    text = template(templates.CHATML).render(messages)
    assert len(text) > 2_000_000
