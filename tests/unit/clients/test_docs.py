"""docs/cli.md says what the command does, and no page names a command or an option that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.data import REPOSITORY
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.test_json import WITHOUT, commands

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGE = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")


def test_the_list_of_commands_is_that_of_help(llamaleon: Llamaleon) -> None:
    shown = llamaleon("--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    found = re.search(r"<!-- commands: .*? -->\n```\n(.*?)\n```\n<!-- end -->", PAGE, flags=re.DOTALL)
    assert found is not None
    assert found[1].splitlines() == [line.removeprefix("  ") for line in shown.splitlines()]


def test_what_json_prints_is_told_of_every_command_that_has_it() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", PAGE, flags=re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z ]+)`", row)}
    assert told == {name for name, _ in commands()} - WITHOUT.keys()
    assert [name for name in WITHOUT if f"`{name}` (it" not in PAGE] == []


def test_the_readme_names_every_command() -> None:
    page = PAGES[0].read_text(encoding="utf-8")
    names = {name.split()[0] for name, _ in commands()}
    assert [name for name in names if not re.search(rf"(llamaleon |`){name}\b", page)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_commands_and_options_in_the_examples_exist(path: Path) -> None:
    groups = {name.split()[0] for name, _ in commands() if " " in name}
    known = dict(commands()) | {group: dict(commands()).get(f"{group} list") for group in groups}
    inside = "|".join(name for name, _ in commands() if " " in name)
    for name, rest in re.findall(rf"llamaleon ({inside}|[a-z]+)([^\n`|)]*)", path.read_text("utf-8")):
        if name == "finetune":  # has Olive's flags, which are in a table of their own
            continue
        command = known[name.strip()]
        options = {"--help"} if command is None else {"--help"}.union(*(one.opts for one in command.params))
        options |= (
            set() if command is None else {flag for one in command.params for flag in one.secondary_opts}
        )
        assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= options, name
