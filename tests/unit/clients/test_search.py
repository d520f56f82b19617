"""`search`: a table for pipes; at a terminal names that can be copied, and sizes that stay beside theirs."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console
from tests.unit.clients.conftest import Llamaleon

from llamaleon_clients import console
from llamaleon_clients.api import Client

ID = "bartowski/Llama-3.2-1B-Instruct-GGUF"
SIZES = {"IQ3_M": 657, "Q4_0": 773, "Q4_K_M": 808, "Q5_K_M": 912, "Q6_K": 1020, "Q8_0": 1320, "F16": 2480}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    quants = [
        {"quant": name, "name": name, "bytes": size * 10**6, "fits": "no" if name == "F16" else "yes"}
        for name, size in SIZES.items()
    ]
    quants[2]["best"] = True
    found = [{"id": ID, "downloads": 1_234_567, "gated": True, "quants": quants}]
    monkeypatch.setattr(Client, "search", lambda self, text, limit: found)
    return found


def test_a_row_for_each_repository_in_a_pipe(llamaleon: Llamaleon, found: list[dict[str, Any]]) -> None:
    titles, row = llamaleon("search", "llama", "--url", "http://127.0.0.1:9").stdout.splitlines()
    assert titles.split() == ["REPOSITORY", "DOWNLOADS", "QUANTISATIONS"]
    assert row.startswith(f"{ID} (gated)")
    assert "Q4_K_M 808 MB*, Q5_K_M 912 MB" in row
    assert row.rstrip().endswith("(F16 2.5 GB)")


def test_at_a_terminal(
    llamaleon: Llamaleon, found: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(width=60, force_terminal=True, no_color=True, highlight=False, record=True)
    monkeypatch.setattr(console, "wide_console", lambda: terminal)
    assert llamaleon("search", "llama", "--url", "http://127.0.0.1:9").exit_code == 0
    lines = terminal.export_text().splitlines()
    assert lines[0].startswith(f"{ID} (gated)")
    quants = [line for line in lines if line.startswith("  ")]
    assert [line.strip(" ,").count(",") for line in quants] == [3, 2]
    assert "Q4_K_M 808 MB*" in quants[0]


def test_nothing_found(llamaleon: Llamaleon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "search", lambda self, text, limit: [])
    assert llamaleon("search", "x", "--url", "http://127.0.0.1:9").stdout == "Nothing found.\n"
    assert llamaleon("search", "x", "--json", "--url", "http://127.0.0.1:9").stdout == "[]\n"
