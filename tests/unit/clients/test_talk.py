"""The commands of a conversation: what they change, and what they say to what makes no sense."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer

from llamaleon_clients.api import Client, Json
from llamaleon_clients.errors import ServerRefused
from llamaleon_clients.talk import loop
from llamaleon_clients.talk.commands import Unusable, run
from llamaleon_clients.talk.conversation import Conversation
from llamaleon_clients.talk.printing import Printer


@pytest.fixture
def conversation(server: FakeServer) -> Iterator[Conversation]:
    for name in ("nano+poeta", "nano+poeta*0.7+serio*0.3"):
        server.models[name] = {"id": name, "object": "model", "created": 1, "parent": "nano"}
    with Client(server.url) as client:
        yield Conversation(client, "nano")


def ask(conversation: Conversation, text: str = "Hola") -> None:
    assert conversation.ask(text, lambda kind, piece: None)


def sent(server: FakeServer) -> Json:
    body: Json = server.requests[-1][2]
    return body


def test_adapters_are_switched_in_the_middle(conversation: Conversation, server: FakeServer) -> None:
    ask(conversation)
    run(conversation, "/adapter poeta")
    ask(conversation, "¿Y ahora?")
    assert sent(server)["model"] == "nano+poeta"
    assert len(sent(server)["messages"]) == 3  # the conversation went along
    run(conversation, "/adapter poeta*0.7+serio*0.3")
    assert conversation.model == "nano+poeta*0.7+serio*0.3"
    run(conversation, "/adapter none")
    assert conversation.model == "nano"
    assert run(conversation, "/show adapters").splitlines()[0] == "nano+poeta"


def test_an_unknown_adapter_changes_nothing(conversation: Conversation) -> None:
    with pytest.raises(ServerRefused, match="does not exist"):
        run(conversation, "/adapter nadie")
    assert conversation.model == "nano"


def test_settings_reach_the_request(conversation: Conversation, server: FakeServer) -> None:
    for line in (
        "/set temperature 0.5",
        "/set parameter num_predict 20",  # as Ollama has it
        "/set stop FIN",
        "/set system Sé breve",
        "/set think off",
        "/set format json",
    ):
        run(conversation, line)
    ask(conversation)
    body = sent(server)
    assert (body["temperature"], body["max_tokens"], body["stop"]) == (0.5, 20, "FIN")
    assert body["messages"][0] == {"role": "system", "content": "Sé breve"}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["response_format"] == {"type": "json_object"}
    run(conversation, "/set temperature nan")  # no number of JSON: the server says so
    ask(conversation)
    assert sent(server)["temperature"] == "nan"
    for line in ("/set temperature", "/set format off", "/set system"):
        run(conversation, line)
    ask(conversation)
    assert not {"temperature", "response_format"} & sent(server).keys()
    assert sent(server)["messages"][0]["role"] == "user"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/nada", "/adapter"),
        ("/set colour blue", "temperature"),
        ("/set think maybe", "on"),
        ("/set format xml", "json"),
        ("/adapter", "none"),
        ("/model", "NAME"),
    ],
)
def test_what_makes_no_sense_is_told_how_it_is_meant(
    conversation: Conversation, line: str, words: str
) -> None:
    with pytest.raises(Unusable, match=words):
        run(conversation, line)


def test_a_text_of_several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(['"""Un informe', "de dos", 'líneas"""', "  una  ", '"""corta"""'])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert [loop._question() for _ in range(3)] == ["Un informe\nde dos\nlíneas", "una", "corta"]


def test_thinking_is_dimmed_at_a_terminal_and_left_out_of_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed() -> str:
        printer = Printer()
        for kind, piece in (("thinking", "Hm"), ("thinking", "..."), ("text", "\n\nSí"), ("text", ".")):
            printer.show(kind, piece)
        printer.end()
        return capsys.readouterr().out

    assert printed() == "\n\nSí.\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert printed() == "\x1b[2mHm...\x1b[0m\n\nSí.\n"
    monkeypatch.setattr("rich.console.Console.is_dumb_terminal", True)
    assert printed() == "Hm...\n\nSí.\n"


def test_run_takes_a_model_that_is_here(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("run", "nano", "Hola", "--url", server.url)
    assert result.exit_code == 0
    assert result.stdout.startswith("¿Mañana")


def test_an_answer_as_json(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("run", "nano", "Hola", "--json", "--url", server.url)
    assert '"role": "assistant"' in result.stdout
