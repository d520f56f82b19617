"""Two languages: every sentence that the command says has a Spanish one, and none is left over."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.data import REPOSITORY
from tests.unit.clients.conftest import Llamaleon

from llamaleon_clients.cli import app
from llamaleon_clients.spanish import SENTENCES
from llamaleon_clients.spanish_help import TEXTS
from llamaleon_clients.translated import is_example, paragraphs, split_default
from llamaleon_clients.words import VARIABLES, say

SOURCES = sorted((REPOSITORY / "clients").rglob("*.py"))
FIELD = re.compile(r"\{(\w+)\}")


def sentences(path: Path) -> set[str]:
    """First arguments of `say(...)`: literals, or a test would not find them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say":
            assert isinstance(node.args[0], ast.Constant), f"{path}, line {node.lineno}: not a literal"
            found.add(str(node.args[0].value))
    return found


def test_every_sentence_is_translated_and_none_is_left_over() -> None:
    said = set().union(*(sentences(path) for path in SOURCES))
    assert said - SENTENCES.keys() == set(), "without a Spanish sentence"
    assert SENTENCES.keys() - said == set(), "no longer said"


@pytest.mark.parametrize("english", SENTENCES)
def test_both_have_the_same_fields(english: str) -> None:
    assert sorted(FIELD.findall(english)) == sorted(FIELD.findall(SENTENCES[english]))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LANG": "es_ES.UTF-8"}, "Sin razonamiento."),
        ({"LANG": "es_ES.UTF-8", "LC_ALL": "C"}, "Thinking is off."),
        ({"LANG": "en_US.UTF-8", "LLAMALEON_LANG": "es"}, "Sin razonamiento."),
        ({}, "Thinking is off."),
    ],
)
def test_the_locale_decides(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert say("Thinking is off.") == expected


def helps() -> set[str]:
    """Every piece of help that somebody reads: paragraphs, options, named defaults that are words."""
    found: set[str] = set()

    def walk(command: Any) -> None:
        for text in (command.help, getattr(command, "epilog", None)):
            found.update(piece for piece in paragraphs(text or "") if piece and not is_example(piece))
        for parameter in command.params:
            phrase, default = split_default(getattr(parameter, "help", None) or "")
            found.update(text for text in (phrase, default) if text and re.search("[a-z]{2}", text))
        for inner in getattr(command, "commands", {}).values():
            walk(inner)

    walk(typer.main.get_command(app))
    return found


def test_every_help_is_translated_and_none_is_left_over() -> None:
    shown = {text for text in helps() if not re.fullmatch(r"[\w./]+", text) or text in TEXTS}
    assert shown - TEXTS.keys() == set(), "without a Spanish text"
    assert TEXTS.keys() - helps() - {"Show this message and exit."} == set(), "no longer shown"


def test_help_in_spanish(llamaleon: Llamaleon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", "es")
    assert "Conversa con un modelo o un adaptador" in llamaleon("--help").stdout
    shown = llamaleon("serve", "--help").stdout
    assert "Capas en la GPU. [por defecto: las que quepan]" in re.sub(r"\s+", " ", shown)
    assert "llamaleon serve --gpu-layers 0" in shown  # examples stay
