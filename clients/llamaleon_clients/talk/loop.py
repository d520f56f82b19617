"""Questions and answers until the user leaves."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from llamaleon_clients.console import err, note
from llamaleon_clients.errors import ClientError, ServerUnreachable
from llamaleon_clients.talk import commands
from llamaleon_clients.talk.conversation import Conversation
from llamaleon_clients.talk.printing import Printer
from llamaleon_clients.words import say

PROMPT, MORE = ">>> ", "... "
QUOTES = '"""'
HISTORY_LINES = 1000


def converse(conversation: Conversation, home: Path) -> None:
    """Until `/bye` or Ctrl-D. What is typed is remembered in `home/history`.

    Raises: ServerUnreachable: there is nobody left to talk to.
    """
    note(say("{model}: /help lists the commands, Ctrl-C stops an answer.", model=conversation.model))
    with _line_editing(conversation, home / "history"):
        while True:
            try:
                text = _question()
            except EOFError:
                sys.stdout.write("\n")
                return
            except KeyboardInterrupt:
                sys.stdout.write("\n")
                continue
            if text in commands.LEAVE:
                return
            try:
                if text.startswith("/"):
                    note(commands.run(conversation, text))
                elif text and not answer(conversation, text):
                    note(say("(stopped)"))
            except ServerUnreachable:
                raise
            except ClientError as error:
                err().print(f"{say('Error')}: {error}", style="red", markup=False)


def answer(conversation: Conversation, text: str) -> bool:
    """Print the answer to one question; False if Ctrl-C stopped it."""
    printer = Printer()
    try:
        with printer:
            completed = conversation.ask(text, printer.show)
    except ClientError:
        if printer.begun:
            printer.end()
        raise
    printer.end()
    return completed


def _question() -> str:
    """One line, or all lines between two marks of three quotes."""
    line = input(PROMPT).strip()
    if not line.startswith(QUOTES):
        return line
    lines = [line.removeprefix(QUOTES)]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(input(MORE))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip()


@contextlib.contextmanager
def _line_editing(conversation: Conversation, history: Path) -> Iterator[None]:
    """Arrow keys, history and completion of commands, where the platform has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):  # none yet, or not ours to read: then it begins empty
        readline.read_history_file(history)
    readline.set_history_length(HISTORY_LINES)
    readline.set_completer(_Completer(conversation).complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a full disk must not spoil leaving
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)


class _Completer:
    """Commands at the beginning of a line, names of models and adapters after `/model` and `/adapter`."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._found: list[str] = []

    def complete(self, text: str, state: int) -> str | None:
        """readline asks with `state` 0, 1, ... until there is no more: the server is asked once."""
        import readline

        if state == 0:
            names = self._names(readline.get_line_buffer())
            self._found = [name for name in names if name.startswith(text)]
        return self._found[state] if state < len(self._found) else None

    def _names(self, line: str) -> list[str]:
        if not line.startswith(("/model ", "/load ", "/adapter ")):
            return [name for name in (*commands.COMMANDS, "/bye") if line.startswith("/")]
        try:
            names = [str(entry["id"]) for entry in self._conversation.client.models()]
        except ClientError:
            return []
        if line.startswith("/adapter "):
            names = [name.partition("+")[2] for name in names if "+" in name]
        return names
