"""Ollama's Go templates: the plain ones become Jinja, the others are refused by line.

Translated: text, comments and trimming; `if`, `else if`, `else`, `range .Messages`, `end`; variables;
`.System`, `.Prompt`, `.Response`, and inside the range `.Role` and `.Content`; eq, ne, and, or, not, len,
slice. What tools or thinking need is not: a model with those has a Jinja template in its GGUF.

Source: ollama, template/template.go, `Parse`, `Execute`, `collate`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from llamaleon_server.chat.template import ChatTemplate
from llamaleon_server.errors import BadRequest

_ACTION = re.compile(r"\{\{(?P<left>-(?=\s))?(?P<inside>.*?)(?P<right>(?<=\s)-)?\}\}", re.DOTALL)
_GO_WORDS = r"(?:if|else|end|range|with|define|template|block|break|continue|/\*)"
_GO = re.compile(rf"\{{\{{-?\s*(?:[.$]|{_GO_WORDS}(?![\w.|(]))")
_TOKEN = re.compile(r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<word>[$.\w]+)|(?P<sign>:=|[(),|]))')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}

FIELDS = {".System": "system", ".Prompt": "prompt", ".Response": "response", ".Messages": "messages"}
MESSAGE_FIELDS = {".Role": "role", ".Content": "content"}

# A turn is written at the first message of the next one; what follows the answer's place ends a turn, and is
# left out where the model is to answer.
TURNS = """\
{{%- macro turn(system, prompt, response, ended) -%}}{body}{{%- endmacro -%}}
{{%- set t = namespace(system='', prompt='', response='') -%}}
{{%- for m in messages -%}}
{{%- if (m.role == 'system' and (t.prompt or t.response)) or (m.role == 'user' and t.response) -%}}
{{{{- turn(t.system, t.prompt, t.response, true) -}}}}
{{%- set t.system = '' -%}}{{%- set t.prompt = '' -%}}{{%- set t.response = '' -%}}
{{%- endif -%}}
{{%- if m.role == 'system' -%}}{{%- set t.system = m.content -%}}
{{%- elif m.role == 'user' -%}}{{%- set t.prompt = m.content -%}}
{{%- elif m.role == 'assistant' -%}}{{%- set t.response = m.content -%}}
{{%- endif -%}}
{{%- endfor -%}}
{{{{- turn(t.system, t.prompt, t.response, not add_generation_prompt) -}}}}"""
WHOLE = """\
{{%- set t = namespace(system='') -%}}
{{%- for m in messages if m.role == 'system' -%}}
{{%- set t.system = t.system ~ ('\\n\\n' if t.system else '') ~ m.content -%}}
{{%- endfor -%}}
{{%- set system = t.system -%}}{{%- set prompt = '' -%}}{{%- set response = '' -%}}{body}"""


def jinja_of(template: str | None, *, has_own: bool) -> tuple[str | None, str | None]:
    """The Jinja to use in place of the GGUF's own, and a note for people if what they wrote is not used.

    `has_own`: the GGUF has a chat template, which knows more than a Go template says.

    Raises: BadRequest if the template cannot be used; it names the line within it.
    """
    if template is None or not template.strip():
        return None, None
    if not is_go(template):
        problem = ChatTemplate(template).problem
        if problem is not None:
            raise BadRequest(f"TEMPLATE is no Jinja template: {problem}.", param="template")
        return template, None
    if has_own:
        return None, (
            "TEMPLATE is in Ollama's language and not used: the GGUF has a chat template of its own, which "
            "knows more. Written in Jinja it would be used."
        )
    return translated(template), None


def is_go(template: str) -> bool:
    """Jinja has statements in `{% %}`; in Go they stand in `{{ }}`, and names begin with a point."""
    return "{%" not in template and _GO.search(template) is not None


def translated(template: str) -> str:
    """Raises: BadRequest naming the line of what is not translated."""
    writer = _Writer(template)
    for line, text, action in _pieces(template):
        writer.text(text)
        if action is not None:
            writer.action(line, action)
    return writer.finish()


def _pieces(template: str) -> Iterator[tuple[int, str, str | None]]:
    """(line of the action, text before it, action); the last has no action."""
    if template.rfind("{{") > template.rfind("}}"):  # else each of many would be sought to the end
        raise _refused(template.count("\n") + 1, "an action without its end")
    at, trims = 0, False
    for found in _ACTION.finditer(template):
        text = template[at : found.start()]
        text = text.lstrip() if trims else text
        yield (
            template.count("\n", 0, found.start()) + 1,
            text.rstrip() if found["left"] else text,
            found["inside"].strip(),
        )
        at, trims = found.end(), found["right"] is not None
    yield 0, template[at:].lstrip() if trims else template[at:], None


def _refused(line: int, what: str) -> BadRequest:
    return BadRequest(
        f"TEMPLATE, its line {line}: {what} is not translated from Ollama's language: write the template in "
        "Jinja, or leave it out where the GGUF has its own.",
        param="template",
    )


@dataclass
class _Writer:
    """Jinja, in which all text is quoted, so that no whitespace of it is taken for markup."""

    source: str
    body: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)  # the open ones, innermost last: if, range
    message: list[str] = field(default_factory=list)  # the loop variable of each open range
    variables: dict[str, str] = field(default_factory=dict)
    answered: bool = False  # `.Response` is behind us

    def text(self, text: str) -> None:
        if text:
            self.put("{{ " + _literal(text) + " }}")

    def put(self, jinja: str) -> None:
        self.body.append("{% if ended %}" + jinja + "{% endif %}" if self.answered else jinja)

    def action(self, line: int, action: str) -> None:
        if action.startswith("/*"):
            return
        word, _, rest = action.partition(" ")
        rest = rest.strip()
        match word:
            case "if":
                self.blocks.append("if")
                self.body.append("{% if " + self.expression(line, rest) + " %}")
            case "else" if rest.startswith("if ") and self.blocks[-1:] == ["if"]:
                self.body.append("{% elif " + self.expression(line, rest[3:]) + " %}")
            case "else" if not rest and self.blocks:
                self.body.append("{% else %}")
            case "range":
                self.range(line, rest)
            case "end" if self.blocks:
                if self.blocks.pop() == "range":
                    self.message.pop()
                    self.body.append("{% endfor %}")
                else:
                    self.body.append("{% endif %}")
            case _:
                self.value(line, action)

    def range(self, line: int, rest: str) -> None:
        found = re.fullmatch(r"(?:\$(\w+)\s*,\s*\$(\w+)\s*:=\s*)?\$?\.Messages", rest)
        if found is None or self.message:
            raise _refused(line, f"`range {rest}`")
        self.blocks.append("range")
        self.message.append("m")
        if found[1]:
            self.variables |= {f"${found[1]}": "loop.index0", f"${found[2]}": "m"}
        self.body.append("{% for m in messages %}")

    def value(self, line: int, action: str) -> None:
        assigned = re.fullmatch(r"\$(\w+)\s*:?=\s*(.+)", action, re.DOTALL)
        if assigned is not None:
            self.body.append("{% set v_" + assigned[1] + " = " + self.expression(line, assigned[2]) + " %}")
            self.variables[f"${assigned[1]}"] = f"v_{assigned[1]}"
            return
        self.put("{{ " + self.expression(line, action) + " }}")
        self.answered = self.answered or (action in {".Response", "$.Response"} and not self.message)

    def expression(self, line: int, text: str) -> str:
        tokens, at = [], 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                raise _refused(line, f"`{text}`")
            tokens.append(found[0].strip())
            at = found.end()
        jinja = self.call(line, tokens)
        if tokens:
            raise _refused(line, f"`{text}`")
        return jinja

    def call(self, line: int, tokens: list[str]) -> str:
        """A function with its operands, or one operand; takes what it reads off `tokens`."""
        if not tokens:
            raise _refused(line, "an empty action")
        name = tokens[0]
        if name not in {"eq", "ne", "and", "or", "not", "len", "slice"}:
            return self.operand(line, tokens)
        tokens.pop(0)
        operands = []
        while tokens and tokens[0] not in {")", "|", ",", ":="}:
            operands.append(self.operand(line, tokens))
        match name, operands:
            case "eq", [first, *others] if others:
                return "(" + " or ".join(f"{first} == {other}" for other in others) + ")"
            case "ne", [first, second]:
                return f"({first} != {second})"
            case (("and" | "or"), [_, _, *_]):
                return "(" + f" {name} ".join(operands) + ")"
            case "not", [only]:
                return f"(not {only})"
            case "len", [only]:
                return f"({only} | length)"
            case "slice", [of, *ends] if 1 <= len(ends) <= 2:
                return f"{of}[{':'.join([*ends, ''][:2])}]"
        raise _refused(line, f"`{name}` with {len(operands)} operands")

    def operand(self, line: int, tokens: list[str]) -> str:
        token = tokens.pop(0)
        if token == "(":
            inner = self.call(line, tokens)
            if not tokens or tokens.pop(0) != ")":
                raise _refused(line, "a bracket left open")
            return inner
        if token[0] in '"`':
            return _literal(_unquoted(token))
        if token.isdecimal() or token in {"true", "false"}:
            return token
        variable, point, name = token.partition(".")
        if token in self.variables:
            return self.variables[token]
        if self.message and (token in MESSAGE_FIELDS or self.variables.get(variable) == "m"):
            if f".{name}" in MESSAGE_FIELDS and point:
                return f"m.{MESSAGE_FIELDS['.' + name]}"
        elif token in FIELDS and not self.message:
            return FIELDS[token]
        if token.startswith("$.") and token[1:] in FIELDS:
            return FIELDS[token[1:]]
        raise _refused(line, f"`{token}`")

    def finish(self) -> str:
        last = self.source.count("\n") + 1
        if self.blocks:
            raise _refused(last, f"`{self.blocks[-1]}` without `end`")
        body = "".join(self.body)
        if ".Messages" in self.source:
            return WHOLE.format(body=body)
        if not self.answered:  # then the answer comes at the end
            body += "{{ response }}"
        return TURNS.format(body=body)


def _literal(text: str) -> str:
    """As a Jinja string, in which no bracket can be taken for markup."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return "'" + escaped.replace("{", "\\x7b").replace("}", "\\x7d") + "'"


def _unquoted(token: str) -> str:
    if token[0] == "`":
        return token[1:-1]
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), token[1:-1])
