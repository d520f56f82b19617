"""Dialects whose calls are JSON from the answer's first character on."""

from __future__ import annotations

from typing import ClassVar

from llamaleon_server.chat.dialects.dialect import Dialect, Reading, Setup, Steps
from llamaleon_server.chat.dialects.lark import Lark
from llamaleon_server.chat.dialects.objects import read_object


class AtStart(Dialect):
    before: ClassVar[tuple[str, ...]] = ()  # marks that may precede the first call
    head: ClassVar[str] = ""  # a text that begins so is a call

    def read_answer(self, reading: Reading, setup: Setup) -> Steps[None]:
        """JSON that calls none of the tools is an answer."""
        yield from reading.attempt(self.read_calls(reading, setup), or_text=True)
        if reading.calls:
            yield from reading.space()
        yield from reading.until((), reading.text)

    def read_calls(self, reading: Reading, setup: Setup) -> Steps[None]:
        names = [tool.name for tool in setup.tools]
        yield from reading.space()
        yield from reading.one_of(self.before)
        yield from reading.space()
        listed = (yield from reading.character()) == "["
        if listed:
            yield from reading.expect("[")
        between = ","
        while between != "]":
            yield from reading.space()
            yield from read_object(reading, names)
            yield from reading.space()
            if listed:
                between = yield from reading.expect(",", "]")
            elif (yield from reading.one_of((";",))) is None:
                break
        yield from reading.space()
        yield from reading.one_of(("```",))

    def answer(self, lark: Lark, setup: Setup) -> str:
        calls = self.calls(lark, setup)
        if setup.required:
            return calls
        return f"{calls} | {setup.form or lark.not_beginning(self.head)}"

    def calls(self, lark: Lark, setup: Setup) -> str:
        raise NotImplementedError
