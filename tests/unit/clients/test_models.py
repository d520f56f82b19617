from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer, error, running


@pytest.fixture
def poet(tmp_path: Path, server: FakeServer) -> Path:
    """An adapter file; the server already serves another one, `nano+señor`."""
    server.models["nano+señor"] = {"id": "nano+señor", "parent": "nano", "version": 3, "created": 1700000000}
    path = tmp_path / "poet.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_ls_names_kind_and_version(llamaleon: Llamaleon, server: FakeServer, poet: Path) -> None:
    lines = llamaleon("ls", "--url", server.url).stdout.splitlines()

    assert lines[0].split() == ["NAME", "KIND", "VERSION", "SIZE", "ADDED"]
    assert lines[1].split()[:2] == ["nano", "base"]
    assert lines[2].split()[:3] == ["nano+señor", "adapter", "3"]


def test_a_name_longer_than_the_terminal_stays_whole(llamaleon: Llamaleon, server: FakeServer) -> None:
    name = "organisation/" + "long-name-of-a-model-" * 4 + "q4_k_m"
    server.models[name] = {"id": name, "parent": None, "bytes": 1}

    assert f"\n{name} " in llamaleon("ls", "--url", server.url).stdout


def test_ls_for_scripts(llamaleon: Llamaleon, server: FakeServer, poet: Path) -> None:
    printed = llamaleon("ls", "--json", "--url", server.url).stdout

    assert [entry["id"] for entry in json.loads(printed)] == ["nano", "nano+señor"]
    assert "señor" in printed


def test_add_sends_the_absolute_path(
    llamaleon: Llamaleon, server: FakeServer, poet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(poet.parent)
    result = llamaleon("add", "poeta", "poet.gguf", "--base", "nano", "--replace", "--url", server.url)

    assert result.stdout == "Serving nano+poeta.\n"
    assert server.requests == [
        (
            "POST",
            "adapter",
            {"lora_name": "poeta", "lora_path": str(poet), "base_model_name": "nano", "load_inplace": True},
        )
    ]


def test_add_a_whole_model(llamaleon: Llamaleon, server: FakeServer, poet: Path) -> None:
    result = llamaleon("add", "grande", str(poet), "--model", "--url", server.url)

    assert result.stdout == "Serving grande.\n"
    assert server.requests == [("POST", "base", {"path": str(poet), "name": "grande"})]


def test_a_name_that_is_taken_says_what_replaces_it(llamaleon: Llamaleon, tmp_path: Path) -> None:
    class Taken(FakeServer):
        async def load_adapter(self, request: Request) -> Response:
            return error(400, "It is loaded. To load it in place, set 'load_inplace' to True.")

    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with running(Taken()) as server:
        result = llamaleon("add", "poeta", str(tmp_path / "a.gguf"), "--url", server.url)
    assert result.stderr == "Error: poeta is there already; --replace takes its place.\n"


def test_add_needs_a_file(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("add", "poeta", "nada.gguf", "--url", server.url)

    assert result.exit_code == 1
    assert "nada.gguf does not exist" in result.stderr


def test_rm_knows_bases_from_adapters(llamaleon: Llamaleon, server: FakeServer, poet: Path) -> None:
    assert llamaleon("rm", "nano+señor", "--url", server.url).stdout == "Removed nano+señor.\n"
    assert llamaleon("rm", "nano", "--url", server.url).stdout == "Removed nano.\n"

    assert server.requests == [("POST", "unload", "nano+señor"), ("DELETE", "base", "nano")]
    assert not server.models


def test_names_with_slashes_and_colons_survive(
    llamaleon: Llamaleon, server: FakeServer, tmp_path: Path
) -> None:
    name = "org/qwen2.5:0.5b+señor"
    server.models[name] = {"id": name, "parent": None}

    assert llamaleon("rm", name, "--url", server.url).exit_code == 0
    assert server.requests == [("DELETE", "base", name)]


def test_rm_of_an_unknown_name_is_an_error(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("rm", "nada", "--url", server.url)

    assert (result.exit_code, result.stderr) == (
        1,
        "Error: The lora adapter 'nada' cannot be found. (field: lora_name)\n",
    )


def test_show_flattens_what_is_nested(llamaleon: Llamaleon, server: FakeServer) -> None:
    lines = llamaleon("show", "nano+señor", "--url", server.url).stdout.splitlines()

    assert [" ".join(line.split()) for line in lines] == [
        "name nano+señor",
        "version 1 deployed pinned /h/señor.gguf",
        "rank 16",
        "target_tensors 2",
        "training.n_epochs 3",
        "training.learning_rate 0.002",
    ]


def test_show_for_scripts_is_complete(llamaleon: Llamaleon, server: FakeServer) -> None:
    details = json.loads(llamaleon("show", "nano+señor", "--json", "--url", server.url).stdout)

    assert details["manifest"]["base"] == {"vocab_size": 512}
    assert details["versions"][0]["state"] == "deployed"


def test_ps_without_a_server_starts_none(llamaleon: Llamaleon, home: Path) -> None:
    assert llamaleon("ps").stdout == "No server is running.\n"
    assert json.loads(llamaleon("ps", "--json").stdout) == {"object": "list", "data": []}
    assert not home.exists()
