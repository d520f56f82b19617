"""Keys are shown once, kept as hashes, and managed beside a server that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamaleon_server.errors import BadRequest, Conflict, NotFound
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.keys import KeyStore
from llamaleon_server.registry.keys_command import main


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(Database(tmp_path / "llamaleon.db"))


def test_a_key_is_found_by_itself_alone(keys: KeyStore) -> None:
    record, key = keys.create("laptop", "use")
    assert keys.find(key) == record
    last = "A" if key[-1] != "A" else "B"
    for wrong in (
        key[:-1] + last,
        key[:-1],
        key + "x",
        key.upper(),
        "",
        record.id,
        f"llamaleon-{record.id}-",
    ):
        assert keys.find(wrong) is None


def test_the_disk_never_sees_it(keys: KeyStore, tmp_path: Path) -> None:
    _, key = keys.create("laptop", "admin")
    secret = key.rsplit("-", 1)[-1] if "-" not in key[-43:] else key[-43:]
    for file in tmp_path.iterdir():
        assert secret[-20:].encode() not in file.read_bytes()


def test_names_are_unique_and_scopes_known(keys: KeyStore) -> None:
    keys.create("laptop", "use")
    with pytest.raises(Conflict, match="laptop"):
        keys.create("laptop", "train")
    with pytest.raises(BadRequest, match="use, train, admin"):
        keys.create("x", "root")  # type: ignore[arg-type]  # what a script may give
    for name in ("", "a b", "x" * 65):
        with pytest.raises(BadRequest):
            keys.create(name, "use")
    with pytest.raises(NotFound):
        keys.revoke("desktop")
    keys.revoke("laptop")
    assert not keys.any()
    keys.create("laptop", "use")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path)]
    assert main([*home, "create", "laptop", "--scope", "train"]) == 0
    shown = capsys.readouterr()
    key = shown.out.strip()
    assert "not shown again" in shown.err
    assert main([*home, "list"]) == 0
    listing = capsys.readouterr().out
    assert "laptop" in listing
    assert "train" in listing
    assert "never" in listing
    assert key not in listing
    assert main([*home, "create", "laptop"]) == 1
    assert "already" in capsys.readouterr().err
    assert main([*home, "--json", "create", "script"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["name"], made["scope"]) == ("script", "use")
    assert main([*home, "--json", "list"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["laptop", "script"]
    assert main([*home, "revoke", made["id"]]) == 0
    assert main([*home, "revoke", "laptop"]) == 0
    assert "open again" in capsys.readouterr().err
    assert main([*home, "revoke", "laptop"]) == 1
    capsys.readouterr()
    assert main([*home, "--json", "revoke", "laptop"]) == 1
    refused = json.loads(capsys.readouterr().err)["error"]
    assert "laptop" in refused["message"]
    assert refused["param"] == "name"
