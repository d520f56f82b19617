"""`llamaleon chat`: one answer, or a conversation."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaleon_clients.options import Url

if TYPE_CHECKING:
    from llamaleon_clients.api import Client

CHAT_HELP = """
Chat with a model or an adapter.

\b
  llamaleon chat nano
  llamaleon chat nano+poet "Escribe sobre el mar"
  cat report.txt | llamaleon chat nano+extractor --temperature 0
  llamaleon chat ~/models/qwen2.5-0.5b-q4_k_m.gguf

In the conversation: /clear forgets it, /exit or Ctrl-D leaves, Ctrl-C stops an answer.
"""


def register(app: typer.Typer) -> None:
    app.command(help=CHAT_HELP)(chat)


def chat(
    model: Annotated[str, typer.Argument(help="Name as `ls` shows it, or the path of a GGUF file.")],
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="Ask this and leave.")] = None,
    *,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: always the likeliest word.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    url: Url = None,
) -> None:
    from llamaleon_clients.session import connect, model_name

    text = _question(text)
    with connect(url) as client:
        conversation = Conversation(
            client, model_name(client, model), system, temperature=temperature, max_tokens=max_tokens
        )
        if text is None:
            _converse(conversation)
        elif not conversation.ask(text):
            raise typer.Exit(130)


class Conversation:
    """The messages so far. A failed question is forgotten; of a stopped answer, what came is kept."""

    def __init__(self, client: Client, model: str, system: str | None, **sampling: Any) -> None:
        self._client = client
        self.model = model
        self._sampling = sampling
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[dict[str, Any]] = list(self._opening)

    def clear(self) -> None:
        self.messages = list(self._opening)

    def ask(self, text: str) -> bool:
        """Print the answer as it comes; False if Ctrl-C stopped it."""
        self.messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        completed = False
        try:
            with closing(self._client.stream_chat(self.model, self.messages, **self._sampling)) as answer:
                for piece in answer:
                    pieces.append(piece)
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            completed = True
        except KeyboardInterrupt:
            pass
        except Exception:
            self.messages.pop()
            raise
        sys.stdout.write("\n")
        if pieces:
            self.messages.append({"role": "assistant", "content": "".join(pieces)})
        else:
            self.messages.pop()  # two questions in a row are refused by many chat templates
        return completed


def _question(text: str | None) -> str | None:
    """The argument, else what is piped in; None when a conversation at the terminal is wanted."""
    if text is not None or sys.stdin.isatty():
        return text
    from llamaleon_clients.errors import BadInput

    try:
        piped = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise BadInput(f"The text on standard input is not UTF-8 (byte {error.start}).") from error
    if not piped:
        raise BadInput("There is nothing to ask: standard input is empty.")
    return piped


def _converse(conversation: Conversation) -> None:
    from llamaleon_clients.console import err, note
    from llamaleon_clients.errors import ServerRefused

    _enable_line_editing()
    note(f"{conversation.model}: /clear forgets the conversation, /exit leaves, Ctrl-C stops an answer.")
    while True:
        try:
            text = input(">>> ").strip()
        except EOFError:
            sys.stdout.write("\n")
            return
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            continue
        if text in ("/exit", "/quit", "/bye"):
            return
        if text == "/clear":
            conversation.clear()
            note("The conversation is forgotten.")
        elif text.startswith("/"):
            note("Commands: /clear, /exit.")
        elif text:
            try:
                if not conversation.ask(text):
                    note("(stopped)")
            except ServerRefused as error:
                err().print(f"Error: {error}", style="red", markup=False)


def _enable_line_editing() -> None:
    """Arrow keys and history of `input()`, where the platform has readline."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # importing it is what enables it
