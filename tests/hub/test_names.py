"""The names that `pull` understands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaleon_server.errors import BadRequest
from llamaleon_server.hub.names import HubName, OllamaName, parse_name


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("hf.co/o/r", HubName(repo="o/r")),
        ("huggingface.co/o/r:Q8_0", HubName(repo="o/r", quant="Q8_0")),
        ("o/r", HubName(repo="o/r")),
        ("o/r:UD-Q4_K_XL", HubName(repo="o/r", quant="UD-Q4_K_XL")),
        ("o/r/m-Q8_0.gguf", HubName(repo="o/r", file="m-Q8_0.gguf")),
        ("o/r/Q8_0/m-00001-of-00002.gguf", HubName(repo="o/r", file="Q8_0/m-00001-of-00002.gguf")),
        ("https://huggingface.co/o/r", HubName(repo="o/r")),
        ("https://huggingface.co/o/r/tree/main", HubName(repo="o/r")),
        (
            "https://hf.co/o/r/resolve/v1/a%20b.gguf?download=true",
            HubName(repo="o/r", revision="v1", file="a b.gguf"),
        ),
        ("https://huggingface.co/o/r/blob/main/m.gguf", HubName(repo="o/r", file="m.gguf")),
        (
            "https://mirror.example/o/r/resolve/main/m.gguf",
            HubName(repo="o/r", file="m.gguf", endpoint="https://mirror.example"),
        ),
        ("llama3.2", OllamaName(name="llama3.2")),
        ("llama3.2:1b", OllamaName(name="llama3.2", tag="1b")),
        ("https://ollama.com/library/llama3.2:1b", OllamaName(name="llama3.2", tag="1b")),
        ("ollama.com/mannix/jan", OllamaName(name="jan", namespace="mannix")),
        (
            "registry.example.org/team/m:v2",
            OllamaName(name="m", tag="v2", namespace="team", host="registry.example.org"),
        ),
        (
            "http://localhost:5000/library/m",
            OllamaName(name="m", host="localhost:5000", scheme="http"),
        ),
        ("localhost:5000/team/m:1", OllamaName(name="m", tag="1", namespace="team", host="localhost:5000")),
    ],
)
def test_meanings(name: str, meaning: HubName | OllamaName) -> None:
    assert parse_name(name) == meaning


def test_ollamas_clients_mean_its_registry_by_two_parts() -> None:
    assert parse_name("mannix/jan:7b", ollama=True) == OllamaName(name="jan", tag="7b", namespace="mannix")
    assert parse_name("hf.co/o/r:Q8_0", ollama=True) == HubName(repo="o/r", quant="Q8_0")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a", "a:latest"), ("ollama.com/b/a:1", "b/a:1"), ("localhost:5000/b/a:1", "localhost:5000/b/a:1")],
)
def test_as_ollama_lists_them(name: str, shown: str) -> None:
    assert str(parse_name(name)) == shown


NO_NAMES = ["", " ", "a b", "o/r/file.bin", "o/r/../x.gguf", "/etc/passwd", "ftp://h/o/r", "o//r", "https://"]
NO_NAMES += ["https://user:secret@hf.co/o/r", "o/r/a/../../b.gguf", "x" * 201, "-a/b", "a:b:c"]


NO_NAMES += ["../a/b", "http://../a/b", "me@registry.example.org/a/b", "http://h:x/a/b", "http://[/a/b"]
NO_NAMES += ["registry.example.org:/a/b"]


@pytest.mark.parametrize("name", [*NO_NAMES, "localhost:5000/a/b/c"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_name(name)
    assert caught.value.param == "model"


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = parse_name(text)
    except BadRequest:
        return
    parts = (
        [*name.repo.split("/"), *(name.file or "x").split("/")]
        if isinstance(name, HubName)
        else [name.name, name.tag]
    )
    assert not {"", ".", ".."} & set(parts)
