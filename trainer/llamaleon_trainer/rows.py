"""Dataset rows: which shape a file has, and what is wrong with each malformed row. No torch here.

Shapes, detected from the keys of the first well-formed row; every later row must have the same:

    chat        {"messages": [{"role", "content", "weight"?, "tool_calls"?...}], "tools"?}    OpenAI
    prompt      {"prompt", "completion"}     two strings: raw text, as /v1/completions sees it;
                                             two lists of messages: only the completion is learnt
    alpaca      {"instruction", "input"?, "output"}     becomes one user and one assistant message
    text        {"text"}                     learnt from the first token to the last

Other packages may add theirs: `shapes.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

from .records import Problem, Record, read_records
from .shapes import other_shapes
from .split import split

__all__ = ["ROLES", "SHAPES", "DataRow", "Dataset", "Problem", "read_dataset", "split"]

SHAPES = ("chat", "prompt", "alpaca", "text")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
EXPECTED = "`messages`, `prompt` and `completion`, `instruction` and `output`, or `text`"


class DataRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One example: `messages`, or `prompt` and `completion`, or `text`; the others are None.

    Messages are OpenAI's, with string contents (text parts are joined); `weight` 0 marks an answer that is
    context only. `tools` are the row's OpenAI tool definitions.
    """

    line: int
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    tools: list[dict[str, Any]] | None = None

    def content(self) -> bytes:
        """What identifies the row wherever it stands in the file."""
        fields = [self.messages, self.prompt, self.completion, self.text, self.tools]
        return json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()


class Dataset(Struct, frozen=True):
    """`shape` is one of SHAPES or another package's, or "" when no row could be read."""

    shape: str
    rows: list[DataRow]
    problems: list[Problem]


class Malformed(ValueError):
    """One row breaks the rules of its shape; the message says how."""


def read_dataset(path: Path, name: str | None = None) -> Dataset:
    """Read every row of a file. Never raises for what the file contains: see `Dataset.problems`.

    Raises:
        OSError: the file cannot be read at all.
    """
    shape, rows, problems = "", list[DataRow](), list[Problem]()
    for item in read_records(path, name):
        if isinstance(item, Problem):
            problems.append(item)
            continue
        try:
            found = _shape_of(item.value)
            if shape and found != shape:
                raise Malformed(f"a {found} row in a file whose first row is {shape}; use one shape per file")
            row = _parsed(item, found)
            _refuse_lone_surrogates(row)
        except Malformed as error:
            problems.append(Problem(item.line, str(error)))
        else:
            shape = found
            rows.append(row)
    if not rows and not problems:
        problems.append(Problem(1, "the file has a header and no rows"))
    return Dataset(shape, rows, problems)


def _shape_of(value: Any) -> str:
    if not isinstance(value, dict):
        raise Malformed(f"a row must be a JSON object, not {_kind(value)}")
    if "messages" in value:
        return "chat"
    if "prompt" in value or "completion" in value:
        return "prompt"
    if "instruction" in value or "output" in value:
        return "alpaca"
    if "text" in value:
        return "text"
    for other in other_shapes():
        if other.matches(value):
            return other.name
    keys = ", ".join(f"`{key}`" for key in value) or "none"
    raise Malformed(f"no known shape: its keys are {keys}; expected {EXPECTED}")


def _parsed(record: Record, shape: str) -> DataRow:
    if shape in _PARSERS:
        return _PARSERS[shape](record)
    other = next(one for one in other_shapes() if one.name == shape)
    try:
        rewritten = Record(record.line, other.rewrite(record.value))
    except ValueError as error:
        raise Malformed(f"as {shape}: {error}") from error
    ours = _shape_of(rewritten.value)
    if ours not in _PARSERS:
        raise Malformed(f"the shape {shape} made a row of the shape {ours}, which is none of ours")
    return _PARSERS[ours](rewritten)


def _chat(record: Record) -> DataRow:
    value = record.value
    messages = _messages(value["messages"], "messages")
    _require_answer(messages, "messages")
    return DataRow(line=record.line, messages=messages, tools=_tools(value.get("tools")))


def _prompt(record: Record) -> DataRow:
    value = record.value
    if not isinstance(value.get("prompt"), list):
        prompt, answer = _string(value, "prompt", may_be_empty=True), _string(value, "completion")
        return DataRow(line=record.line, prompt=prompt, completion=answer)
    completion = value.get("completion")
    if isinstance(completion, str):  # Hugging Face data sets write either form
        completion = [{"role": "assistant", "content": completion}]
    context = [_as_context(message) for message in _messages(value["prompt"], "prompt")]
    answers = _messages(completion, "completion")
    _require_answer(answers, "completion")
    return DataRow(line=record.line, messages=context + answers, tools=_tools(value.get("tools")))


def _alpaca(record: Record) -> DataRow:
    instruction = _string(record.value, "instruction")
    output = _string(record.value, "output")
    # Absent, null and empty all mean "no input": real Alpaca files use each of them.
    given = _string(record.value, "input", may_be_empty=True) if record.value.get("input") is not None else ""
    content = f"{instruction}\n\n{given}" if given.strip() else instruction
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": output}]
    return DataRow(line=record.line, messages=messages)


def _text(record: Record) -> DataRow:
    return DataRow(line=record.line, text=_string(record.value, "text"))


_PARSERS = {"chat": _chat, "prompt": _prompt, "alpaca": _alpaca, "text": _text}


def _messages(value: Any, field: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise Malformed(f"`{field}` must be a list of messages, not {_kind(value)}")
    if not value:
        raise Malformed(f"`{field}` is empty")
    return [_message(message, f"{field}[{index}]") for index, message in enumerate(value)]


def _message(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"`{where}` must be an object with `role` and `content`, not {_kind(value)}")
    role = value.get("role")
    if role not in ROLES:
        shown = "missing" if role is None else json.dumps(role, ensure_ascii=False)
        raise Malformed(f"`{where}.role` is {shown}; expected one of {', '.join(ROLES)}")
    calls = value.get("tool_calls") or value.get("function_call")
    if calls is not None and role != "assistant":
        raise Malformed(f"`{where}` calls a tool, which only an assistant message may")
    if "tool_calls" in value and not isinstance(value["tool_calls"], list | None):
        raise Malformed(f"`{where}.tool_calls` must be a list, not {_kind(value['tool_calls'])}")
    content = _content(value.get("content"), where)
    if not content.strip() and not calls and role not in ("tool", "function"):
        raise Malformed(f"`{where}.content` is {'missing' if value.get('content') is None else 'empty'}")
    weight = value.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1) or role != "assistant"):
        raise Malformed(f"`{where}.weight` must be 0 or 1, on an assistant message")
    return {**value, "content": content}


def _content(value: Any, where: str) -> str:
    """A message's text: a string, nothing, or OpenAI's list of text parts joined."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise Malformed(f"`{where}.content` must be a string or a list of text parts, not {_kind(value)}")
    for index, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise Malformed(f'`{where}.content[{index}]` must be {{"type": "text", "text": ...}}')
    return "".join(part["text"] for part in value)


def _as_context(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "weight": 0} if message["role"] == "assistant" else message


def _require_answer(messages: list[dict[str, Any]], field: str) -> None:
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise Malformed(f"`{field}` has no assistant message: nothing to learn")
    if all(message.get("weight") == 0 for message in answers):
        raise Malformed(f"every assistant message of `{field}` has weight 0: nothing to learn")


def _tools(value: Any) -> list[dict[str, Any]] | None:
    if value is not None and not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise Malformed("`tools` must be a list of objects")
    return value or None


def _string(value: dict[str, Any], field: str, *, may_be_empty: bool = False) -> str:
    found = value.get(field)
    if found is None:
        raise Malformed(f"`{field}` is missing")
    if not isinstance(found, str):
        raise Malformed(f"`{field}` must be a string, not {_kind(found)}")
    if not found.strip() and not may_be_empty:
        raise Malformed(f"`{field}` is empty")
    return found


def _refuse_lone_surrogates(row: DataRow) -> None:
    """JSON may escape half a character ("\\ud83d"); no tokenizer can encode it."""
    try:
        row.content()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise Malformed(f"contains half a character ({half}) that is not valid Unicode") from error


def _kind(value: Any) -> str:
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")
