"""`llamaleon run` and `llamaleon chat`: one answer, or a conversation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaleon_clients.naming import model_names
from llamaleon_clients.options import AsJson, Url

if TYPE_CHECKING:
    from llamaleon_clients.api import Client

RUN_HELP = """
Chat with a model; it is pulled first if it is not here.

\b
  llamaleon run llama3.2:1b
  llamaleon run bartowski/Llama-3.2-1B-Instruct-GGUF "Hola"
"""
CHAT_HELP = """
Chat with a model or an adapter.

\b
  llamaleon chat nano
  llamaleon chat nano+poet "Escribe sobre el mar"
  cat report.txt | llamaleon chat nano+extractor --temperature 0
  llamaleon chat ~/models/qwen2.5-0.5b-q4_k_m.gguf

In the conversation: /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.
"""

Model = Annotated[
    str,
    typer.Argument(help="Name as `ls` shows it, or the path of a GGUF file.", autocompletion=model_names),
]
Text = Annotated[str | None, typer.Argument(metavar="TEXT", help="Ask this and leave.")]
System = Annotated[str | None, typer.Option(help="System message.")]
Temperature = Annotated[float | None, typer.Option(help="0: always the likeliest word.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer, in tokens.")]


def register(app: typer.Typer) -> None:
    app.command(help=RUN_HELP)(run)
    app.command(help=CHAT_HELP)(chat)


def run(
    model: Annotated[
        str,
        typer.Argument(help="Name, path of a GGUF file, or what `pull` takes.", autocompletion=model_names),
    ],
    text: Text = None,
    *,
    system: System = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    _talk(model, text, system, _given(temperature, max_tokens), url, pull=True, as_json=as_json)


def chat(
    model: Model,
    text: Text = None,
    *,
    system: System = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    _talk(model, text, system, _given(temperature, max_tokens), url, pull=False, as_json=as_json)


def _given(temperature: float | None, max_tokens: int | None) -> dict[str, Any]:
    given = {"temperature": temperature, "max_tokens": max_tokens}
    return {name: value for name, value in given.items() if value is not None}


def _talk(
    model: str,
    text: str | None,
    system: str | None,
    settings: dict[str, Any],
    url: str | None,
    *,
    pull: bool,
    as_json: bool,
) -> None:
    from llamaleon_clients.console import print_json
    from llamaleon_clients.errors import BadInput
    from llamaleon_clients.local import home_dir
    from llamaleon_clients.session import connect, is_file, model_name
    from llamaleon_clients.talk.conversation import Conversation
    from llamaleon_clients.talk.loop import answer, converse
    from llamaleon_clients.words import say

    text = _question(text)
    if as_json and text is None:
        raise BadInput(say("--json answers one question: give it as TEXT, or pipe it in."))
    with connect(url) as client:
        name = _present(client, model) if pull and not is_file(model) else model_name(client, model)
        conversation = Conversation(client, name, system, settings)
        if text is None:
            converse(conversation, home_dir())
        elif as_json:
            opening = [] if system is None else [{"role": "system", "content": system}]
            messages = [*opening, {"role": "user", "content": text}]
            print_json(client.chat_answer(conversation.model, messages, **settings))
        elif not answer(conversation, text):
            raise typer.Exit(130)


def _present(client: Client, model: str) -> str:
    """The name to ask for, once the model is here. Raises: ServerRefused if nobody has it."""
    from llamaleon_clients.errors import ServerRefused
    from llamaleon_clients.pulling import follow, pull_display

    try:
        client.model(model)
        return model
    except ServerRefused as error:
        if error.status != 404 or "+" in model:  # an adapter is nothing that could be pulled
            raise
    with pull_display() as display:
        return str(follow(client.pull(model), display)["model"])


def _question(text: str | None) -> str | None:
    """The argument, else what is piped in; None when a conversation at the terminal is wanted."""
    if text is not None or sys.stdin.isatty():
        return text
    from llamaleon_clients.errors import BadInput
    from llamaleon_clients.words import say

    try:
        piped = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise BadInput(say("The text on standard input is not UTF-8 (byte {at}).", at=error.start)) from error
    if not piped:
        raise BadInput(say("There is nothing to ask: standard input is empty."))
    return piped
