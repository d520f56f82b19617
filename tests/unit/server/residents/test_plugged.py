"""Engines of other packages, found by their entry points."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest
from tests.unit.server.registry.small import write_base

from llamaleon_server.app import create_app
from llamaleon_server.errors import BadRequest
from llamaleon_server.settings import Settings

PACKAGE = """
from llamaleon_server.testing import FakeEngines

def engine(settings):
    return FakeEngines(lambda message: f"from {settings.engine_name}").open

def broken(settings):
    raise RuntimeError("no such card")
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    facts = site / "other_engine-1.dist-info"
    facts.mkdir(parents=True)
    (site / "other_engine.py").write_text(PACKAGE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other-engine\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[llamaleon.engines]\nother = other_engine:engine\nbroken = other_engine:broken\n"
    )
    monkeypatch.syspath_prepend(str(site))
    sys.modules.pop("other_engine", None)


async def test_it_answers_in_place_of_ours(tmp_path: Path) -> None:
    base = write_base(tmp_path / "tiny.gguf")
    app = create_app(Settings(home=tmp_path / "home", models=(str(base),), engine_name="other"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        body = {"model": "tiny", "prompt": "Hola", "max_tokens": 20}
        answer = (await http.post("/v1/completions", json=body)).json()
    await app.state.lifecycle.close()
    assert answer["choices"][0]["text"] == "from other"


@pytest.mark.parametrize(("name", "words"), [("nobody", "known: broken, other"), ("broken", "no such card")])
def test_what_cannot_be_used_is_named(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=words):
        create_app(Settings(home=tmp_path / "home", engine_name=name))
