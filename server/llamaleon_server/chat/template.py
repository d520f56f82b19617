"""Chat templates: the model's own Jinja, rendered as Hugging Face renders it.

Source: transformers, `utils/chat_template_utils.py`, `_compile_jinja_template` and `render_jinja_template`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property, lru_cache, partial
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from llamaleon_server.chat.bounds import BoundedEnvironment, within
from llamaleon_server.errors import BadRequest

Message = Mapping[str, Any]

# For base models: no markup that they have never seen, and the end token after each answer so that an
# adapter can learn to stop.
FALLBACK = """\
{%- for message in messages -%}
{{ message.role | capitalize }}:
{{ message.content }}{{ eos_token if message.role == 'assistant' else '' }}

{% endfor -%}
{%- if add_generation_prompt %}Assistant:
{% endif -%}
"""

# What a template is given anyway, whatever its options say.
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"})

SYSTEM_PROBE = "llamaleon-system-probe"


class TemplateRefused(BadRequest):
    """The template raised for these messages; the message is the template's own."""


class ChatTemplate:
    """`source` None, or one that does not compile, gives the plain fallback (`is_fallback`)."""

    def __init__(self, source: str | None, bos_token: str = "", eos_token: str = "") -> None:
        self.problem: str | None = None  # why the model's own template is not used, if it has one
        self._special = {"bos_token": bos_token, "eos_token": eos_token}
        self._template = _compiled(FALLBACK)
        self.is_fallback = True
        self.source = ""  # the Jinja text, if it is the model's own
        if source is not None:
            try:
                self._template = _compiled(source)
                self.source = source
                self.is_fallback = False
            except jinja2.TemplateSyntaxError as error:
                self.problem = f"line {error.lineno}: {error.message}"
            except (RecursionError, SyntaxError, MemoryError) as error:  # of the Python that is made of it
                self.problem = f"it is nested too deeply ({error})"

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """`options` are the template's own, such as `enable_thinking`.

        Raises: TemplateRefused with the template's own words, e.g. when roles must alternate.
        """
        if messages and messages[0]["role"] == "system" and not self.takes_system:
            messages = _fold_system(messages)
        return self._render(messages, add_generation_prompt, tools, options)

    def begins_with_bos(self, rendered: str) -> bool:
        """Then the tokenizer must not add another one."""
        bos = self._special["bos_token"]
        return bool(bos) and rendered.startswith(bos)

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system message reaches the model. Some templates raise for it, others drop it."""
        probe = [{"role": "system", "content": SYSTEM_PROBE}, {"role": "user", "content": "?"}]
        try:
            return SYSTEM_PROBE in self._render(probe, True, None, None)
        except TemplateRefused:
            return False

    def _render(
        self,
        messages: Sequence[Message],
        generation: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        options: Mapping[str, Any] | None,
    ) -> str:
        try:
            given = {name: value for name, value in (options or {}).items() if name not in RESERVED}
            render = partial(
                self._template.render,
                given,
                messages=list(messages),
                tools=list(tools) if tools else None,
                documents=None,
                add_generation_prompt=generation,
                **self._special,
            )
            return within(render)
        except Exception as error:
            # A template is somebody's program: whatever it trips over is about these messages.
            raise TemplateRefused(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error


def _fold_system(messages: Sequence[Message]) -> list[Message]:
    """The system text before the first user message's own text, as these models' makers recommend."""
    system, *rest = messages
    for index, message in enumerate(rest):
        if message["role"] == "user":
            folded = {**message, "content": f"{system['content']}\n\n{message['content']}"}
            return [*rest[:index], folded, *rest[index + 1 :]]
    return [{**system, "role": "user"}, *rest]


@lru_cache(maxsize=64)
def chat_template(source: str | None, bos_token: str, eos_token: str) -> ChatTemplate:
    """The compiled template; compiling takes milliseconds, so each is compiled once."""
    return ChatTemplate(source, bos_token, eos_token)


# ---------------------------------------------------------------- the environment of templates


class _Generation(Extension):
    """`{% generation %}` marks answers for training; when rendering it is its content."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes HTML, which no model was trained on."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    helpers: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    environment.globals.update(helpers)
    return environment


def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)
