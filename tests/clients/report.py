"""`python -m tests.clients.report`: runs every client and writes the table of docs/clients.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from tests.clients.open_webui import run_open_webui
from tests.clients.servers import CLIENTS, NotInstalled, Report, both_servers, run_client
from tests.data import REPOSITORY

PAGE = REPOSITORY / "docs" / "clients.md"
BEGIN, END = "<!-- table: python -m tests.clients.report -->", "<!-- end of table -->"
TESTED = ("openai", "anthropic", "ollama")  # packages of our own environment, driven by tests of their name
WORDS = {"passed": "yes", "failed": "**no**", "not applicable": "-"}
STEPS = ("chat", "stream", "tools", "structured", "embeddings", "adapter", "errors", "cancellation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--open-webui", type=Path, metavar="COMMAND", help="run Open WebUI as well")
    arguments = parser.parse_args()
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as folder, both_servers(Path(folder)) as variables:
        for name in CLIENTS:
            try:
                reports.append(run_client(name, variables))
            except NotInstalled as reason:
                print(f"{name}: not run: {reason}")
                continue
            tell(reports[-1])
        if arguments.open_webui is not None:
            reports.append(run_open_webui(arguments.open_webui, variables, Path(folder) / "webui"))
            tell(reports[-1])
    tables = f"{table(reports)}\n\n{tested_table()}"
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    PAGE.write_text(f"{before}{BEGIN}\n{tables}\n{after}", encoding="utf-8")


def tell(report: Report) -> None:
    print(report.client, report.version)
    for step in report.steps:
        print(f"    {step.name}: {step.result} {step.detail}".rstrip())


def table(reports: list[Report]) -> str:
    """A row for each client; other steps than the usual ones stand in the last column."""
    lines = [
        f"| client | version | {' | '.join(STEPS)} | also |",
        f"|---|---|{'---|' * len(STEPS)}---|",
    ]
    for report in reports:
        found = {step.name: WORDS[step.result] for step in report.steps}
        usual = [found.pop(step, "-") for step in STEPS]
        also = ", ".join(f"{step}: {word}" for step, word in found.items())
        lines.append(f"| {report.client} | {report.version} | {' | '.join(usual)} | {also} |")
    return "\n".join(lines)


def tested_table() -> str:
    """Runs the tests of each package and counts them."""
    lines = ["| client | version | tests passed | failed | skipped |", "|---|---|--:|--:|--:|"]
    for package in TESTED:
        files = sorted(str(path) for path in Path(__file__).parent.glob(f"test_{package}*.py"))
        counts = run_tests(files)
        version = importlib.metadata.version(package)
        print(package, version, counts)
        lines.append(
            f"| {package} | {version} | {counts['passed']} | {counts['failed']} | {counts['skipped']} |"
        )
    return "\n".join([*lines, "", f"Python {platform.python_version()}, {platform.system()}."])


def run_tests(files: list[str]) -> Counter[str]:
    """How many passed, failed and were skipped."""
    counted: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={result}"]
        subprocess.run([*command, *files], cwd=REPOSITORY, check=False)
        for case in ElementTree.parse(result).iter("testcase"):
            marks = {child.tag for child in case}
            failed = marks & {"failure", "error"}
            counted["failed" if failed else "skipped" if "skipped" in marks else "passed"] += 1
    return counted


if __name__ == "__main__":
    main()
