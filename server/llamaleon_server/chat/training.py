"""Which text of a rendered conversation is learned: the answers, each with its end-of-turn mark."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os.path import commonprefix
from typing import Any

from msgspec import Struct

from llamaleon_server.chat.prompt import as_templates_want, manner_of, tools_of
from llamaleon_server.chat.template import ChatTemplate, TemplateRefused
from llamaleon_server.errors import BadRequest

Message = Mapping[str, Any]

# The mark after an answer: white space of the template, then one bracketed token or one run of text.
# What follows may be cut inside the next mark, so an open bracket is none.
_END_OF_TURN = re.compile(r"\s*(?:<[^<>]*>|\[[^\[\]]*\]|[^\s<\[]\S*)?")

PRIVATE_USE = range(0xE000, 0xF900)  # characters that mean nothing to anybody else


class Segment(Struct, frozen=True):
    """`weight` (dimensionless) multiplies the loss of every token of `text`."""

    text: str
    weight: float


class _Span(Struct, frozen=True):
    start: int
    end: int


def training_segments(
    template: ChatTemplate, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None
) -> list[Segment]:
    """Cut a conversation so that answers have weight 1 and everything else 0.

    The texts together are the full rendering, and the text before the first answer is exactly what serving
    renders to ask for it. White space that templates put after the end-of-turn mark is not learned: serving
    stops at the mark. An answer with `"weight": 0` is context.

    Where a template renders earlier answers differently once a later turn follows (it strips their thinking,
    say), only the last answer is learned. Where even the last answer does not follow its own prompt (the
    prompt opens a block that the finished turn does not have), the text is that prompt, the answer and its
    mark: what serving will see.

    Raises:
        BadRequest: the template refuses the messages, or there is no answer to learn.
    """
    answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise BadRequest("There is no assistant message to learn from.", param="messages")
    learned = [at for at in answers if messages[at].get("weight") != 0]
    messages = as_templates_want(messages)
    render = partial(manner_of(template).render, template, tools=tools_of(tools or ()))
    full = render(messages, generation=False)
    spans = [_span(render, messages, full, at) for at in answers]
    found = [span for span in spans if span is not None]
    if len(found) == len(spans):
        return _cut(full, [span for at, span in zip(answers, found, strict=True) if at in learned])
    if answers[-1] not in learned:
        return [Segment(full, 0.0)]
    if spans[-1] is not None:
        return _cut(full, [spans[-1]])
    return _last_as_served(render, messages, full, answers[-1])


def _span(render: Callable[..., str], messages: Sequence[Message], full: str, at: int) -> _Span | None:
    """Where the answer `messages[at]` with its mark stands in `full`; None where serving would not put it."""
    try:
        prompt = render(messages[:at])
    except TemplateRefused:  # nobody can ask for this answer
        return None
    if not full.startswith(prompt):
        return None
    finished = render(messages[: at + 1], generation=False)
    # Up to where the next turn, or whatever ends a whole conversation, begins.
    shared = commonprefix([full, finished])  # noqa: RUF071 (character by character is what is wanted)
    answer = shared[len(prompt) :]
    if messages[at].get("tool_calls"):  # and with them the text, however the template writes both
        return _Span(len(prompt), len(prompt) + len(answer.rstrip()))
    content = _content(messages[at])
    begin = answer.find(content)
    if answer.find(content, begin + 1) >= 0:  # also in its thinking; or it is "in", which is in `<think>`
        begin = _place(render, messages, full, at) - len(prompt)
    if begin < 0:
        return None
    return _Span(len(prompt), len(prompt) + _with_mark(answer, begin + len(content)))


def _content(message: Message) -> str:
    return str(message.get("content") or "").strip()


def _place(render: Callable[..., str], messages: Sequence[Message], full: str, at: int) -> int:
    """Where the content of `messages[at]` begins in `full`; -1 if it does not stand there as written."""
    content = _content(messages[at])
    mark = next(one for one in map(chr, PRIVATE_USE) if one not in full)
    changed = [*messages[:at], {**messages[at], "content": mark + content}, *messages[at + 1 :]]
    before, found, _ = render(changed, generation=False).partition(mark)
    return len(before) if found and full.startswith(before + content) else -1


def _with_mark(answer: str, content_end: int) -> int:
    mark = _END_OF_TURN.match(answer, content_end)
    return mark.end() if mark else content_end


def _cut(full: str, spans: Sequence[_Span]) -> list[Segment]:
    segments, at = [], 0
    for span in spans:
        segments += [Segment(full[at : span.start], 0.0), Segment(full[span.start : span.end], 1.0)]
        at = span.end
    segments.append(Segment(full[at:], 0.0))
    return [segment for segment in segments if segment.text]


def _last_as_served(
    render: Callable[..., str], messages: Sequence[Message], full: str, at: int
) -> list[Segment]:
    prompt = render(messages[:at])
    content, begin = _content(messages[at]), _place(render, messages, full, at)
    if begin < 0:
        raise BadRequest(
            "The chat template does not show the last answer as it is written: it cannot be learned.",
            param="messages",
        )
    end = _with_mark(full, begin + len(content))
    return [Segment(prompt, 0.0), Segment(full[begin:end], 1.0)]
