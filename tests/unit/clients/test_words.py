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

from llamaleon_clients.asking import confirmed
from llamaleon_clients.cli import app
from llamaleon_clients.spanish import AREAS, SENTENCES
from llamaleon_clients.spanish_help import TEXTS
from llamaleon_clients.talk.commands import help_text
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


def test_no_sentence_is_translated_in_two_areas() -> None:
    assert sum(len(area.SENTENCES) for area in AREAS) == len(SENTENCES)


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


@pytest.mark.parametrize("language", ["en", "es"])
def test_help_fits_eighty_columns(
    llamaleon: Llamaleon, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    """No line is longer, and no command's line in the list is cut with dots."""
    monkeypatch.setenv("LLAMALEON_LANG", language)
    listed = llamaleon("--help").stdout
    assert not [line for line in listed.splitlines() if line.endswith("...") and "[" not in line]
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]  # it is a group
        shown = llamaleon(name, "--help").stdout.splitlines()
        assert [line for line in shown if len(line) > 80] == [], name


@pytest.mark.parametrize("language", ["en", "es"])
def test_help_of_the_conversation_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", language)
    assert max(len(line) for line in help_text().splitlines()) <= 80


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cp nano", "Falta el argumento 'DESTINATION'."),
        ("ls --nope", "No existe la opción --nope."),
        ("lss", "No existe la orden 'lss'."),
        ("stop now", "Sobran argumentos: now"),
        ("serve --port x", "Valor no válido para '--port': "),
        ("train", "Valor no válido: hacen falta DATA, --base y --name"),
    ],
)
def test_a_wrong_command_line_in_spanish(
    llamaleon: Llamaleon, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", "es")
    result = llamaleon(*line.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Uso: llamaleon ")
    assert f"Error: {said}" in result.stderr


def test_help_in_spanish(llamaleon: Llamaleon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", "es")
    assert "Conversa con un modelo o un adaptador" in llamaleon("--help").stdout
    shown = llamaleon("serve", "--help").stdout
    assert "Capas en la GPU. [por defecto: las que quepan]" in re.sub(r"\s+", " ", shown)
    assert "llamaleon serve --gpu-layers 0" in shown  # examples stay
    assert "Uso: llamaleon serve [OPCIONES]" in shown
    assert "\nOpciones:\n" in shown
    assert "-h, --help" in shown.splitlines()[-1]
    assert shown.rstrip().endswith("Muestra esta ayuda.")
    assert "[obligatorio]" in llamaleon("cp", "--help").stdout


@pytest.mark.parametrize(
    ("language", "typed", "expected"),
    [
        ("en", "y", True),
        ("en", "Yes", True),
        ("en", "", False),
        ("en", "n", False),
        ("en", "s", False),
        ("es", "s", True),
        ("es", "SÍ", True),
        ("es", "y", True),
        ("es", "", False),
    ],
)
def test_yes_is_said_in_the_language(
    monkeypatch: pytest.MonkeyPatch, language: str, typed: str, expected: bool
) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", language)
    asked: list[str] = []

    def prompt(text: str, **more: object) -> str:
        asked.append(text)
        return typed

    monkeypatch.setattr(typer, "prompt", prompt)
    assert confirmed("?") is expected
    assert asked == ["? [s/N]" if language == "es" else "? [y/N]"]


TELLING = {"note", "confirmed", "BadInput", "ClientError", "StartFailed", "Unusable", "DemoFailed"}
TELLING |= {"JobNotDeployed", "print", "BadParameter"}
MARKUP = re.compile(r"\[/?[a-z ]*\]")


def untold(path: Path) -> list[str]:
    """What is told to the user as it stands in the source, and not through `say`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0]
        parts = first.values if isinstance(first, ast.JoinedStr) else [first]
        texts = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
        if called in TELLING and re.search("[a-z]{2}", MARKUP.sub("", " ".join(texts))):
            found.append(f"{path.name}, line {node.lineno}: {' '.join(texts)}")
    return found


def test_nothing_is_told_in_english_alone() -> None:
    assert [line for path in SOURCES for line in untold(path)] == []


def test_what_is_not_said_in_both_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("note(f'Job {job}')\nout.print(f'[bold]{x}[/bold]: {y}')\nraise BadInput('no file')\n")
    assert len(untold(path)) == 2
