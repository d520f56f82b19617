"""`llamaleon keys` runs the server's command on the home directory, and says the result in its own words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.clients.conftest import Llamaleon


def test_made_listed_and_revoked(llamaleon: Llamaleon, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "everybody on this machine" in llamaleon("keys", "list").stdout
    made = llamaleon("keys", "create", "laptop", "--scope", "train")
    assert made.stdout.startswith("llamaleon-"), "the key alone, for $(...)"
    assert made.stdout.count("\n") == 1
    assert "It is not shown again" in made.stderr

    titles, row = llamaleon("keys", "list").stdout.splitlines()
    assert titles.split()[:3] == ["NAME", "SCOPE", "ID"]
    assert row.split()[:2] == ["laptop", "train"]
    assert row.split()[-1] == "never"
    assert made.stdout.strip() not in row

    monkeypatch.setenv("LLAMALEON_LANG", "es")
    revoked = llamaleon("keys", "revoke", "laptop")
    assert revoked.stdout == "laptop revocada.\n"
    assert revoked.stderr.startswith("No quedan claves")


def test_json(llamaleon: Llamaleon, home: Path) -> None:
    made = json.loads(llamaleon("keys", "create", "ñu", "--json").stdout)
    assert (made["name"], made["scope"]) == ("ñu", "use")
    again = llamaleon("keys", "create", "ñu", "--json")
    assert (again.exit_code, again.stdout) == (1, "")
    error = json.loads(again.stderr)["error"]
    assert "ñu" in error["message"]
    assert error["param"] == "name"
    assert [one["id"] for one in json.loads(llamaleon("keys", "list", "--json").stdout)] == [made["id"]]
    revoked = json.loads(llamaleon("keys", "revoke", made["id"], "--json").stdout)
    assert (revoked["revoked"], revoked["left"]) == (True, 0)


def test_what_is_refused_is_said(llamaleon: Llamaleon, home: Path) -> None:
    unknown = llamaleon("keys", "revoke", "nada")
    assert unknown.exit_code == 1
    assert unknown.stderr.startswith("Error: ")
    assert "nada" in unknown.stderr
    assert llamaleon("keys", "create", "x", "--scope", "root").exit_code == 2
