"""What the text of an answer must look like: OpenAI's `response_format`, and other servers' fields for it."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct

from llamaleon_server.chat.ask import Form
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import refuse
from llamaleon_server.wire.sampling import SamplingFields


class NamedSchema(Struct, frozen=True, kw_only=True):
    """`strict` or not, the schema is kept to."""

    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True, kw_only=True):
    """`schema` beside `json_object` is llama-server's."""

    type: str
    json_schema: NamedSchema | None = None
    schema: dict[str, Any] | None = None


class Structured(Struct, frozen=True, kw_only=True):
    """vLLM's `structured_outputs`."""

    json: dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class FormFields(SamplingFields, frozen=True, kw_only=True):
    response_format: ResponseFormat | None = None
    grammar: str | None = None  # llguidance's Lark, or llama.cpp's GBNF
    regex: str | None = None
    json_schema: dict[str, Any] | None = None  # llama-server's
    structured_outputs: Structured | None = None
    guided_json: dict[str, Any] | None = None  # vLLM's older names
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    def form(self) -> Form | None:
        """Raises: BadRequest naming the field; also the second of two."""
        forms = [form for form in (self._response_format(), *self._others()) if form is not None]
        if len(forms) > 1:
            first, second = forms[0].field.split(".")[0], forms[1].field
            raise BadRequest(f"`{second}`: the answer has its form from `{first}` already.", param=second)
        return forms[0] if forms else None

    def _response_format(self) -> Form | None:
        asked = self.response_format
        if asked is None or asked.type == "text":
            return None
        if asked.type == "json_object":
            return _json(asked.schema, "response_format.schema") or Form(kind="json_object")
        if asked.type != "json_schema":
            raise refuse("response_format.type", f"{asked.type!r} is none of text, json_object, json_schema.")
        if asked.json_schema is None:
            place = "response_format.json_schema"
            raise BadRequest(f"`{place}` is required.", param=place)
        return _json(asked.json_schema.schema, "response_format.json_schema.schema") or Form(
            kind="json_object"
        )

    def _others(self) -> list[Form | None]:
        vllm = self.structured_outputs or Structured()
        return [
            _text("grammar", self.grammar, "grammar"),
            _text("regex", self.regex, "regex"),
            _json(self.json_schema, "json_schema"),
            _json(self.guided_json, "guided_json"),
            _text("regex", self.guided_regex, "guided_regex"),
            _choice(self.guided_choice, "guided_choice"),
            _text("grammar", self.guided_grammar, "guided_grammar"),
            _json(vllm.json, "structured_outputs.json"),
            _text("regex", vllm.regex, "structured_outputs.regex"),
            _choice(vllm.choice, "structured_outputs.choice"),
            _text("grammar", vllm.grammar, "structured_outputs.grammar"),
            Form(kind="json_object", field="structured_outputs.json_object") if vllm.json_object else None,
        ]


def _json(schema: dict[str, Any] | None, field: str) -> Form | None:
    return None if schema is None else Form(kind="json_schema", value=schema, field=field)


def _text(kind: Any, text: str | None, field: str) -> Form | None:
    return Form(kind=kind, value=text, field=field) if text else None


def _choice(texts: list[str] | None, field: str) -> Form | None:
    if not texts:
        return None
    return Form(kind="regex", value="|".join(re.escape(text) for text in texts), field=field)
