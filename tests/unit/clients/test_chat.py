from __future__ import annotations

import pytest
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer

from llamaleon_clients.api import Client
from llamaleon_clients.errors import ServerRefused
from llamaleon_clients.talk.conversation import Conversation
from llamaleon_clients.talk.loop import answer

SPANISH = "¿Mañana o el año que viene?\u2028Cuesta 3 €."


def test_spanish_answer_arrives_whole(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon(
        "chat", "nano", "¿Cuánto cuesta la piña?", "--system", "Sé breve", "--temperature", "0",
        "--max-tokens", "20", "--url", server.url,
    )  # fmt: skip

    assert (result.exit_code, result.stdout) == (0, SPANISH + "\n")
    assert server.requests == [
        (
            "POST",
            "chat",
            {
                "model": "nano",
                "messages": [
                    {"role": "system", "content": "Sé breve"},
                    {"role": "user", "content": "¿Cuánto cuesta la piña?"},
                ],
                "stream": True,
                "temperature": 0.0,
                "max_tokens": 20,
            },
        )
    ]


def test_piped_text_is_the_question(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("chat", "nano", "--url", server.url, input="Informe: 97.460 €\n".encode())

    assert result.exit_code == 0
    assert server.requests[0][2]["messages"] == [{"role": "user", "content": "Informe: 97.460 €"}]


def test_piped_text_that_is_not_utf8_is_refused(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("chat", "nano", "--url", server.url, input="año".encode("latin-1"))

    assert result.exit_code == 1
    assert "not UTF-8 (byte 1)" in result.stderr


def test_nothing_to_ask_is_an_error(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("chat", "nano", "--url", server.url, input=b"")

    assert result.exit_code == 1
    assert "nothing to ask" in result.stderr


def test_a_failure_after_the_first_words_is_told(llamaleon: Llamaleon, server: FakeServer) -> None:
    server.stream_error = {"message": "The engine died.", "type": "server_error", "code": "engine_error"}

    result = llamaleon("chat", "nano", "Hola", "--url", server.url)

    assert result.exit_code == 1
    assert result.stdout.startswith("¿Mañana")
    assert result.stderr == "Error: The engine died.\n"


def test_a_gguf_path_is_registered_and_used(
    llamaleon: Llamaleon, server: FakeServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = tmp_path_factory.mktemp("models") / "señor.gguf"
    model.write_bytes(b"GGUF")

    result = llamaleon("chat", str(model), "Hola", "--url", server.url)

    assert result.exit_code == 0
    assert server.requests[0] == ("POST", "base", {"path": str(model)})
    assert server.requests[1][2]["model"] == "señor"


def test_a_missing_gguf_path_is_named(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("chat", "./nowhere/model.gguf", "Hola", "--url", server.url)

    assert result.exit_code == 1
    assert "nowhere/model.gguf does not exist" in result.stderr


def test_a_file_of_the_hub_is_a_name(llamaleon: Llamaleon, server: FakeServer) -> None:
    """`pull OWNER/REPO/FILE.gguf` serves it under that name."""
    server.models["org/repo/a.gguf"] = {"id": "org/repo/a.gguf", "parent": None}
    for command in ("chat", "run"):
        assert llamaleon(command, "org/repo/a.gguf", "Hola", "--url", server.url).exit_code == 0

    result = llamaleon("chat", "org/repo/b.gguf", "Hola", "--url", server.url)
    assert "The model file org/repo/b.gguf does not exist" in result.stderr


def test_conversation_remembers_and_clears(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    with Client(server.url) as client:
        conversation = Conversation(client, "nano", "Sé breve")
        assert answer(conversation, "Hola")
        assert answer(conversation, "¿Y luego?")

        roles = [message["role"] for message in server.requests[1][2]["messages"]]
        assert roles == ["system", "user", "assistant", "user"]
        conversation.clear()

    assert conversation.messages == []
    assert conversation.system == "Sé breve"
    assert capsys.readouterr().out == f"{SPANISH}\n{SPANISH}\n"


def test_a_refused_question_is_forgotten(server: FakeServer) -> None:
    with Client(server.url) as client:
        conversation = Conversation(client, "unknown", None)
        with pytest.raises(ServerRefused, match="Nearest names: nano"):
            answer(conversation, "Hola")

    assert conversation.messages == []


def test_ctrl_c_stops_the_answer_only(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(Client):
        def stream_deltas(self, *arguments: object, **sampling: object):  # type: ignore[no-untyped-def]  # Ctrl-C
            yield {"content": "Había"}
            raise KeyboardInterrupt

    with Interrupted(server.url) as client:
        conversation = Conversation(client, "nano", None)
        assert not answer(conversation, "Cuenta un cuento")

    assert conversation.messages[-1] == {"role": "assistant", "content": "Había"}
    assert capsys.readouterr().out == "Había\n"
