"""Ollama's templates: the plain ones as Ollama renders them, the others refused by line."""

from __future__ import annotations

import pytest

from llamaleon_server.chat.template import ChatTemplate
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.go_template import is_go, jinja_of, translated

TURN = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "U2 {{ '{%' }}"},
]
PROMPTS = """{{- if .System }}<|system|>
{{ .System }}<|end|>
{{ end }}{{ if .Prompt }}<|user|>
{{ .Prompt }}<|end|>
{{ end }}<|assistant|>
{{ .Response }}<|end|>
"""
MESSAGES = """{{ if .System }}[{{ .System }}]{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if or (eq .Role "user") (eq .Role "assistant") }}<{{ .Role }}>
{{ .Content }}{{ if not $last }}</>{{ else if eq .Role "user" }}</>
<assistant>
{{ end }}{{ end }}
{{- /* a comment */ -}}
{{- end }}"""


def rendered(template: str, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
    made = ChatTemplate(translated(template))
    assert made.problem is None
    return made.render(messages, add_generation_prompt=add_generation_prompt)


def test_a_template_of_prompts_is_written_once_a_turn() -> None:
    assert rendered(PROMPTS, TURN) == (
        "<|system|>\nS<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\nA1<|end|>\n"
        "<|user|>\nU2 {{ '{%' }}<|end|>\n<|assistant|>\n"
    )
    assert rendered(PROMPTS, TURN[:3], add_generation_prompt=False).endswith("<|assistant|>\nA1<|end|>\n")


def test_a_template_of_messages_is_written_once() -> None:
    assert rendered(MESSAGES, TURN) == (
        "[S]<user>\nU1</><assistant>\nA1</><user>\nU2 {{ '{%' }}</>\n<assistant>\n"
    )


def test_where_no_place_is_named_the_answer_comes_last() -> None:
    assert rendered("{{ .System }} {{ .Prompt }}: ", TURN[1:]) == " U1: A1 U2 {{ '{%' }}: "


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("a\n{{ range .Tools }}{{ end }}", "line 2: `range .Tools`"),
        ("a\n\n{{ .ToolCalls }}", "line 3: `.ToolCalls`"),
        ("{{ if .System }}x", "line 1: `if` without `end`"),
        ("{{ end }}", "line 1: `end`"),
        ("{{ .System | upper }}", "line 1: `.System | upper`"),
        ("{{ json .System }}", "line 1: `json`"),
        ('{{ template "x" }}', "line 1"),
        ("{{ eq .System }}", "`eq` with 1 operands"),
        ("{{ (eq .System .Prompt }}", "a bracket left open"),
        ("{{ .Role }}", "`.Role`"),
    ],
)
def test_what_is_not_translated_is_refused_by_line(template: str, problem: str) -> None:
    with pytest.raises(BadRequest) as caught:
        translated(template)
    assert problem in caught.value.message
    assert caught.value.param == "template"


def test_jinja_is_taken_as_it_is_and_must_compile() -> None:
    jinja = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert not is_go(jinja)
    assert jinja_of(jinja, has_own=True) == (jinja, None)
    assert not is_go("{{ messages[0].content }}")
    with pytest.raises(BadRequest, match="TEMPLATE is no Jinja template: line 2"):
        jinja_of("\n{% for m in %}", has_own=False)


def test_a_gguf_that_has_a_template_keeps_it() -> None:
    template, note = jinja_of("{{ .Prompt }}", has_own=True)
    assert template is None
    assert note is not None
    assert "not used" in note
    assert jinja_of("{{ .Prompt }}", has_own=False)[0] == translated("{{ .Prompt }}")
    assert jinja_of(" ", has_own=False) == (None, None)
