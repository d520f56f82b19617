"""Rules of the house that no linter keeps for us."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data import REPOSITORY

MAX_LINES = 400
MAX_STATEMENTS = 40
PACKAGES = ("server", "trainer", "convert", "clients")


def python_files() -> list[Path]:
    roots = [*PACKAGES, "tests"]
    return sorted(path for root in roots for path in (REPOSITORY / root).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def statements(function: ast.AST) -> int:
    return sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < MAX_LINES, f"{path}: split it by idea"
    long = {f.name: statements(f) for f in functions(ast.parse(text)) if statements(f) >= MAX_STATEMENTS}
    assert not long, f"{path}: functions of {MAX_STATEMENTS} statements and more: {long}"


@pytest.mark.parametrize("package", PACKAGES)
def test_public_modules_say_what_they_are_for(package: str) -> None:
    bare = [
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / package).rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not bare


def test_the_shipped_model_is_small_enough() -> None:
    models = list((REPOSITORY / "server" / "llamaleon_server" / "models").glob("*.gguf"))
    assert [model.name for model in models] == ["nano.gguf"]
    assert models[0].stat().st_size <= 16 * 2**20


def test_the_import_contracts_hold() -> None:
    # In a process of its own: it configures logging, and thereby silences every logger there is.
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", lint], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_no_top_level_names_beyond_the_agreed_ones() -> None:
    listed = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    agreed = {
        *PACKAGES,
        "tests",
        "docs",
        ".ci",
        ".gitignore",
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
    }
    assert set(listed) <= agreed | {"README.md", "LICENSE"}
