"""Two languages: every sentence that the command says has a Spanish one, and none is left over."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tests.data import REPOSITORY

from llamaleon_clients.spanish import SENTENCES
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
