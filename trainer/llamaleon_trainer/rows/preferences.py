"""Rows that say which of two answers is liked better.

{"prompt", "chosen", "rejected"}    texts: raw, as `prompt` and `completion` are. Or lists of messages:
                                    the two answers, or the two whole conversations; `prompt` may then be
                                    absent, for it is what both begin with
{"question", "system"?, "chosen", "rejected"}     texts of a conversation
{"conversations", "chosen", "rejected"}           ShareGPT's, each answer one message
{"input": {"messages", "tools"?}, "preferred_output", "non_preferred_output"}      OpenAI's
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from ..records import Record
from .messages import as_context, keys_of, read_messages, read_tools, require_answer
from .row import DataRow, Malformed, kind, string
from .supervised import conversation, system_of

Message = dict[str, Any]


def is_preference(value: dict[str, Any]) -> bool:
    return not value.keys().isdisjoint({"chosen", "rejected", "preferred_output", "non_preferred_output"})


def preference(record: Record) -> DataRow:
    """Raises: Malformed."""
    value = record.value
    if "preferred_output" in value or "non_preferred_output" in value:
        return _openai(record)
    for field in ("chosen", "rejected"):
        if value.get(field) is None:
            raise Malformed(f"`{field}` is missing")
    if isinstance(value["chosen"], str) and isinstance(value["rejected"], str):
        return _texts(record)
    answers = {field: _answers(value[field], field) for field in ("chosen", "rejected")}
    begins = _context(value)
    context, chosen, rejected = _parted(begins, answers["chosen"], answers["rejected"])
    return _row(record, context, chosen, rejected, tools=value.get("tools"))


def _openai(record: Record) -> DataRow:
    value, fields = record.value, ("preferred_output", "non_preferred_output")
    given = value.get("input")
    if not isinstance(given, dict) or "messages" not in given:
        raise Malformed(f"`input` must be an object with `messages`, not {kind(given)}")
    context = read_messages(given["messages"], "input.messages")
    chosen, rejected = (_answers(value.get(field), field) for field in fields)
    return _row(record, context, chosen, rejected, fields=fields, tools=given.get("tools"))


def _texts(record: Record) -> DataRow:
    value = record.value
    chosen, rejected = string(value, "chosen"), string(value, "rejected")
    conversational = "question" in value or "conversations" in value or bool(value.get("system"))
    if conversational or isinstance(value.get("prompt"), list):
        answers = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
        return _row(record, _context(value), *answers, tools=value.get("tools"))
    if value.get("prompt") is not None:
        prompt = string(value, "prompt", may_be_empty=True)
    else:
        prompt = _common_beginning(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if chosen == rejected:
        raise Malformed("`chosen` and `rejected` are the same: nothing to prefer")
    for field, left in (("chosen", chosen), ("rejected", rejected)):
        if not left.strip():
            raise Malformed(f"`{field}` has nothing of its own: the other one begins with it")
    worse = DataRow(line=record.line, prompt=prompt, completion=rejected)
    return DataRow(line=record.line, prompt=prompt, completion=chosen, rejected=worse)


def _common_beginning(chosen: str, rejected: str) -> str:
    """Up to the last white space before the two differ: no word is cut, and answers keep their space."""
    pairs = zip(chosen, rejected, strict=False)
    common = chosen[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))]
    end = max((at for at, character in enumerate(common) if character.isspace()), default=0)
    return common[:end]


def _context(value: dict[str, Any]) -> list[Message]:
    """What stands before the answers, as far as the row says so itself."""
    if "conversations" in value:
        return conversation(value, "conversations")
    if isinstance(value.get("prompt"), list):
        return read_messages(value["prompt"], "prompt", keys_of(value["prompt"]))
    field = "question" if "question" in value else "prompt"
    if value.get(field) is None:
        return []
    messages = [{"role": "user", "content": string(value, field)}]
    return [*system_of(value, messages), *messages]


def _answers(value: Any, field: str) -> list[Message]:
    if isinstance(value, dict):
        value = [value]
    elif isinstance(value, str):
        value = [{"role": "assistant", "content": value}]
    return read_messages(value, field, keys_of(value))


def _parted(
    context: list[Message], chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """(what both were asked, the better answer, the worse one), also of two whole conversations."""
    common = sum(1 for _ in takewhile(lambda pair: _same(*pair), zip(chosen, rejected, strict=False)))
    # The same beginning of both is part of the answers where it is an assistant's and the prompt is known.
    if context and (not common or chosen[0]["role"] == "assistant"):
        return context, chosen, rejected
    if not common and chosen[0]["role"] != "assistant":
        raise Malformed("`chosen` and `rejected` answer different prompts: they must begin alike")
    said, asked = chosen[:common], [message["content"] for message in context if message["role"] == "user"]
    if asked and asked[-1] not in [message["content"] for message in said]:
        raise Malformed("`prompt` is not what `chosen` and `rejected` begin with")
    return said, chosen[common:], rejected[common:]


def _same(one: Message, other: Message) -> bool:
    return (one["role"], one["content"], one.get("tool_calls")) == (
        other["role"],
        other["content"],
        other.get("tool_calls"),
    )


def _row(
    record: Record,
    context: list[Message],
    chosen: list[Message],
    rejected: list[Message],
    *,
    fields: tuple[str, str] = ("chosen", "rejected"),
    tools: Any,
) -> DataRow:
    if not context:
        raise Malformed(f"no message before `{fields[0]}` and `{fields[1]}`: nothing was asked")
    if len(chosen) == len(rejected) and all(map(_same, chosen, rejected)):
        raise Malformed(f"`{fields[0]}` and `{fields[1]}` are the same: nothing to prefer")
    for field, answer in zip(fields, (chosen, rejected), strict=True):
        if not answer:
            raise Malformed(f"`{field}` has nothing of its own: the other one begins with it")
        if answer[0]["role"] != "assistant":
            raise Malformed(f"the first message of `{field}` that the other has not must be an assistant's")
        require_answer(answer, field)
    before, known = [as_context(message) for message in context], read_tools(tools)
    worse = DataRow(line=record.line, messages=before + rejected, tools=known)
    return DataRow(line=record.line, messages=before + chosen, tools=known, rejected=worse)
