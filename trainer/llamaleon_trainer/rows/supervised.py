"""Rows that show what to answer, each shape as one of ours."""

from __future__ import annotations

from typing import Any

from ..records import Record
from .messages import SHAREGPT, VERTEX, Keys, as_context, keys_of, read_messages, read_tools, require_answer
from .row import DataRow, Malformed, kind, string

Message = dict[str, Any]


def chat(record: Record) -> DataRow:
    value = record.value
    messages = read_messages(value["messages"], "messages")
    require_answer(messages, "messages")
    return DataRow(line=record.line, messages=messages, tools=read_tools(value.get("tools")))


def sharegpt(record: Record) -> DataRow:
    """Its own keys, or OpenAI's; the system prompt and the tools may stand beside the conversation."""
    value = record.value
    field = "conversations" if "conversations" in value else "conversation"
    messages = conversation(value, field)
    require_answer(messages, field)
    return DataRow(line=record.line, messages=messages, tools=read_tools(value.get("tools")))


def conversation(value: Message, field: str) -> list[Message]:
    """Raises: Malformed."""
    keys = keys_of(value[field])
    if keys is not SHAREGPT:
        keys = Keys("role", "content", {**keys.roles, **SHAREGPT.roles})
    messages = read_messages(value[field], field, keys)
    return [*system_of(value, messages), *messages]


def system_of(value: Message, messages: list[Message], field: str = "system") -> list[Message]:
    """The row's own system prompt as a message, if it has one and the messages have none."""
    if value.get(field) in (None, "") or messages[0]["role"] == "system":
        return []
    return [{"role": "system", "content": string(value, field)}]


def vertex(record: Record) -> DataRow:
    """`input_text` and `output_text`; or `messages` with an `author`, and the system prompt in `context`."""
    value = record.value
    if "messages" not in value:
        asked, answered = string(value, "input_text"), string(value, "output_text")
        return DataRow(line=record.line, messages=[_user(asked), _assistant(answered)])
    if value.get("examples"):
        raise Malformed("`examples` cannot be learnt from beside `messages`: write them as rows of their own")
    messages = read_messages(value["messages"], "messages", VERTEX)
    require_answer(messages, "messages")
    return DataRow(line=record.line, messages=[*system_of(value, messages, "context"), *messages])


def gemini(record: Record) -> DataRow:
    """Vertex's newer shape: `contents` of `parts`, `systemInstruction`."""
    value = record.value
    if value.get("tools"):
        raise Malformed("`tools` of this shape cannot be read: write the row as OpenAI's `messages`")
    contents = value["contents"]
    if not isinstance(contents, list) or not contents:
        raise Malformed(f"`contents` must be a list of turns, not {kind(contents)}")
    instruction = value.get("systemInstruction") or value.get("system_instruction")
    messages = []
    if instruction is not None:
        messages.append({"role": "system", "content": _parts(instruction, "systemInstruction")})
    for index, turn in enumerate(contents):
        where = f"contents[{index}]"
        text = _parts(turn, where)
        role = turn.get("role", "user")
        if role not in ("user", "model"):
            raise Malformed(f"`{where}.role` must be user or model, not {role!r}")
        messages.append(_assistant(text) if role == "model" else _user(text))
    require_answer(messages, "contents")
    return DataRow(line=record.line, messages=messages)


def _parts(turn: Any, where: str) -> str:
    if not isinstance(turn, dict) or not isinstance(turn.get("parts"), list):
        raise Malformed(f"`{where}` must be an object with a list of `parts`")
    for index, part in enumerate(turn["parts"]):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise Malformed(f'`{where}.parts[{index}]` must be {{"text": ...}}')
    text = "".join(part["text"] for part in turn["parts"])
    if not text.strip():
        raise Malformed(f"`{where}.parts` has no text")
    return text


def prompt(record: Record) -> DataRow:
    value = record.value
    if not isinstance(value.get("prompt"), list):
        asked, answer = string(value, "prompt", may_be_empty=True), string(value, "completion")
        return DataRow(line=record.line, prompt=asked, completion=answer)
    completion = value.get("completion")
    if isinstance(completion, str):  # Hugging Face data sets write either form
        completion = [_assistant(completion)]
    context = [as_context(message) for message in read_messages(value["prompt"], "prompt")]
    answers = read_messages(completion, "completion")
    require_answer(answers, "completion")
    return DataRow(line=record.line, messages=context + answers, tools=read_tools(value.get("tools")))


def alpaca(record: Record) -> DataRow:
    """`input` may be `context` and `output` `response` (Dolly); `system`, `history` are LLaMA-Factory's."""
    value = record.value
    instruction = string(value, "instruction")
    output = string(value, "response" if "output" not in value and "response" in value else "output")
    # Absent, null and empty all mean "no input": real Alpaca files use each of them.
    field = "context" if "input" not in value and "context" in value else "input"
    given = string(value, field, may_be_empty=True) if value.get(field) is not None else ""
    content = f"{instruction}\n\n{given}" if given.strip() else instruction
    messages = [*_history(value.get("history")), _user(content), _assistant(output)]
    return DataRow(line=record.line, messages=[*system_of(value, messages), *messages])


def _history(value: Any) -> list[Message]:
    """Earlier turns as pairs of texts; they are learnt, too, as in LLaMA-Factory."""
    if not value:
        return []
    pairs = value if isinstance(value, list) else [value]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair)) for pair in pairs):
        raise Malformed("`history` must be a list of pairs of texts: what was asked, what was answered")
    return [message for asked, answered in pairs for message in (_user(asked), _assistant(answered))]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def text(record: Record) -> DataRow:
    return DataRow(line=record.line, text=string(record.value, "text"))


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
