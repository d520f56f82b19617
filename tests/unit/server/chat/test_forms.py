"""Forms become grammars, or are refused by the name of what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from llamaleon_server.chat.ask import Form
from llamaleon_server.chat.forms import MAX_BYTES, check_grammar, grammar_of, is_gbnf, json_rule
from llamaleon_server.engine.sampling.validity import deeply
from llamaleon_server.errors import BadRequest

FIELD = "response_format.json_schema.schema"
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def tagged(kind: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}


def refused(kind: Any, value: Any, field: str = FIELD) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        grammar_of(Form(kind=kind, value=value, field=field))
    return caught.value


def schema_in(grammar: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(grammar)["grammars"][0]["json_schema"]
    return schema


def test_a_schema_stays_as_it_is_and_is_written_on_one_line() -> None:
    schema = schema_in(grammar_of(Form(kind="json_schema", value=PERSON)))
    guidance = schema.pop("x-guidance")
    assert schema == PERSON
    assert guidance == {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def test_a_schema_may_say_otherwise_about_whitespace() -> None:
    schema = PERSON | {"x-guidance": {"whitespace_flexible": True}}
    assert schema_in(grammar_of(Form(kind="json_schema", value=schema)))["x-guidance"]["whitespace_flexible"]


def test_json_object_is_any_object() -> None:
    assert schema_in(grammar_of(Form(kind="json_object")))["type"] == "object"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$ref": "#"},
        {"enum": ["a", 1, None, {"b": []}]},
        {"type": ["string", "null"], "maxLength": 5, "pattern": "^[a-z]+$"},
        {"type": "string", "format": "date-time"},
        {"type": "array", "prefixItems": [{"type": "string"}], "items": False},
        {"anyOf": [{"type": "string"}, {"type": "integer", "multipleOf": 3}]},
        {"allOf": [PERSON, {"required": ["name"]}]},
        {"type": "object", "patternProperties": {"^x": {"type": "number"}}, "minProperties": 1},
        {"$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"},
        {"title": "T", "description": "d", "default": {}, "examples": [], "deprecated": True, "$comment": ""},
        {"oneOf": [{"type": "string"}, {"type": "integer"}]},
        {"oneOf": [tagged("a"), tagged("b")], "discriminator": {"propertyName": "kind"}},
    ],
)
def test_usual_schemas_are_taken(schema: dict[str, Any]) -> None:
    assert grammar_of(Form(kind="json_schema", value=schema))


@pytest.mark.parametrize("name", ["binary", "int32", "color", "phone"])
def test_a_format_that_nobody_knows_says_nothing(name: str) -> None:
    """As JSON Schema has it; everything else in the schema still binds."""
    schema: dict[str, Any] = {
        "properties": {"a": {"type": "string", "format": name}, "b": {"type": "integer"}}
    }
    assert schema_in(grammar_of(Form(kind="json_schema", value=schema)))["x-guidance"]["lenient"] is True
    schema["properties"]["b"] = {"not": {"type": "string"}}
    error = refused("json_schema", schema)
    assert error.param == f"{FIELD}.properties.b"
    assert '"not"' in error.message


@pytest.mark.parametrize(
    ("schema", "place", "why"),
    [
        ({"type": "strin"}, "", "Invalid type: strin"),
        ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, ".properties.a", "uniqueItems"),
        ({"properties": {"a": {"items": {"not": {}}}}}, ".properties.a.items", '"not"'),
        ({"anyOf": [{"type": "string"}, {"if": {}}]}, ".anyOf.1", '"if"'),
        ({"$defs": {"x": {"contains": {}}}, "$ref": "#/$defs/x"}, ".$defs.x", "contains"),
        ({"additionalProperties": {"propertyNames": {}}}, ".additionalProperties", "propertyNames"),
        ({"type": "string", "pattern": "(a)\\1"}, "", "backreferences"),
        ({"properties": {"a": {"pattern": "a(?=b)", "type": "string"}}}, ".properties.a", "look-around"),
        ({"oneOf": [{"type": "string"}, {"maxLength": 3, "type": "string"}]}, "", "oneOf"),
        ({"$ref": "https://example.com/schema"}, "", "example.com"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "", "greater than maximum"),
        ({"x-guidance": 3}, "", "JsonCompileOptions"),
        ({"properties": []}, "", "must be an object"),
    ],
)
def test_what_cannot_be_enforced_is_refused_where_it_stands(
    schema: dict[str, Any], place: str, why: str
) -> None:
    error = refused("json_schema", schema)
    assert error.param == FIELD + place
    assert why in error.message
    assert error.message.startswith(FIELD + place)


@pytest.mark.parametrize("value", [None, [], "x", True, 3])
def test_a_schema_is_an_object(value: Any) -> None:
    assert refused("json_schema", value).param == FIELD


def test_hostile_schemas_are_refused_and_end_nothing() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    assert "nested" in refused("json_schema", deep).message
    assert "bytes" in refused("json_schema", {"description": "x" * MAX_BYTES}).message
    chain = {f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(1100)}
    assert grammar_of(Form(kind="json_schema", value={"$ref": "#/$defs/d0", "$defs": chain | {"d1100": {}}}))


def test_json_behind_something_else_in_lark() -> None:
    check_grammar(f'start: "call: " %json {json_rule(PERSON, FIELD)}', "tools.0")
    with pytest.raises(BadRequest) as caught:
        json_rule({"if": {}}, "tools.0.function.parameters")
    assert caught.value.param == "tools.0.function.parameters"


@pytest.mark.parametrize(
    "pattern", ["[a-z]+", "^yes|no$", "a/b", "(?i)sí", r"\d{4}-\d{2}", r"\p{L}+", "a\nb"]
)
def test_regular_expressions(pattern: str) -> None:
    assert grammar_of(Form(kind="regex", value=pattern))


@pytest.mark.parametrize("pattern", ["(", r"(a)\1", "a(?=b)", r"\bword", "", " ", None, 5, "\ud800"])
def test_regular_expressions_that_are_none(pattern: Any) -> None:
    assert refused("regex", pattern, "regex").param == "regex"


def test_llama_cpps_grammars_are_translated() -> None:
    text = 'root ::= item+\nitem ::= "- " [^\\n]+ "\\n" # an item\n'
    assert is_gbnf(text)
    assert "start: ITEM+" in grammar_of(Form(kind="grammar", value=text))


@pytest.mark.parametrize(
    "text", ["root ::= (", "root ::= other", 'root ::= "\\', "root ::= !<[1]>", "root ::= " + "(" * 9000]
)
def test_llama_cpps_grammars_that_are_none(text: str) -> None:
    assert refused("grammar", text, "grammar").param == "grammar"


def test_lark_stays_as_it_is() -> None:
    text = 'start: "a" | other\nother: /b+/'
    assert not is_gbnf(text)
    assert grammar_of(Form(kind="grammar", value=text)) == text


@pytest.mark.parametrize("text", ["start: (", "start: other", "hello", "{}", '{"grammars": []}', "\x00"])
def test_a_grammar_that_is_none(text: str) -> None:
    assert refused("grammar", text, "grammar").param == "grammar"


def test_what_fails_on_the_deep_stack_fails_here() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        deeply(fail)
    assert deeply(lambda: 5) == 5


def test_nothing_is_loaded_before_a_form_is_asked_for() -> None:
    code = "import sys, llamaleon_server.chat.forms; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
