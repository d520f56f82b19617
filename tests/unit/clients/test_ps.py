"""What `ps` prints, at 80 columns and in a pipe; `pin` and `unpin`."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from rich.console import Console
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer

from llamaleon_clients import residents

KEY = "0123456789abcdef" * 4


def hot(name: str | None, *, pinned: bool = False, users: int = 0) -> dict[str, Any]:
    return {"name": name, "key": KEY, "first_rank": 0, "rank": 16, "pinned": pinned, "users": users}


def resident(**more: Any) -> dict[str, Any]:
    """A model that works, as `GET /llamaleon/ps` describes it."""
    return {
        "name": "nano",
        "state": "ready",
        "progress": 1.0,
        "resident_bytes": 182_000_000,
        "running": 8,
        "waiting": 2,
        "expires": None,
        "ready": {"device": "CPU", "context_tokens": 2048},
        "adapters": [{"name": "nano+sql@1", "key": KEY, "pinned": True}],
        "rates": {"seconds": 10.0, "tokens_in": 812.4, "tokens_out": 143.2, "steps": 18.0},
        "kv": {"used_tokens": 340, "total_tokens": 1000},
        "step": {
            "steps": 900,
            "mean_s": 0.093,
            "p99_s": 0.12,
            "sequences_mean": 7.94,
            "adapters_mean": 3.1,
            "drafted_tokens": 0,
            "accepted_tokens": 0,
        },
        "bank": {
            "mixing": True,
            "reason": None,
            "total_ranks": 256,
            "used_ranks": 48,
            "hot": [hot("nano+sql@1", pinned=True, users=3), hot("nano+informes@2")],
            "alone": [],
            "warm_adapters": 3,
            "warm_bytes": 51_000_000,
            "cold_adapters": 95,
        },
        "prefix": {"hit_rate": 0.61, "prefixes": 12, "tokens": 3400, "stored": 0, "stored_bytes": 0},
        **more,
    }


def bank(**more: Any) -> dict[str, Any]:
    return {**resident()["bank"], **more}


def printed(llamaleon: Llamaleon, server: FakeServer, *models: dict[str, Any]) -> list[str]:
    server.residents = list(models)
    result = llamaleon("ps", "--url", server.url)
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_a_line_per_model_and_its_bank_and_cache_under_it(llamaleon: Llamaleon, server: FakeServer) -> None:
    idle = resident(name="otro", running=0, waiting=0, rates=None, expires=time.time() + 65, bank=None)
    idle |= {"step": None, "prefix": None}
    assert printed(llamaleon, server, resident(), idle) == [
        "MODEL   STATE   MEMORY   RUNNING   WAITING   TOKENS/S   UNLOADS",
        "nano    ready   182 MB         8         2        143   -",
        "  on      CPU, 2,048 tokens of context",
        "  passes  93 ms each (p99 120 ms), 7.9 sequences and 3.1 adapters in one, 812 prompt tokens/s",
        "  bank    48 of 256 ranks, 1 more adapter in RAM (51.0 MB in all), 95 on disk",
        "          nano+sql@1 (pinned, 3 running), nano+informes@2",
        "  cache   61% of the prompt tokens found, 12 prefixes of 3.4k tokens, 34% of 1.0k cells in use",
        "otro    ready   182 MB         0         0          -   in 1:05",
        "  on  CPU, 2,048 tokens of context",
    ]


def test_a_model_that_loads_has_nothing_more_to_say(llamaleon: Llamaleon, server: FakeServer) -> None:
    loading = {"name": "nano", "state": "loading", "progress": 0.45, "running": 1, "adapters": []}
    assert printed(llamaleon, server, loading)[1:] == [
        "nano    loading 45%        -         1         0          -   -"
    ]


def test_what_cannot_be_mixed_is_named_with_its_reason(llamaleon: Llamaleon, server: FakeServer) -> None:
    off = "the self-test failed"
    turns = bank(mixing=False, reason=off, total_ranks=0, hot=[], warm_adapters=0, cold_adapters=0)
    turns["alone"] = [{"name": "nano+sql@1", "key": KEY, "reason": off}]
    lines = printed(llamaleon, server, resident(bank=turns))
    assert "  bank    adapters take turns: the self-test failed" in lines
    assert not [line for line in lines if "alone" in line], "the reason is said once"
    alone = [{"name": f"nano+a{n}@1", "key": KEY, "reason": "it has an embedding"} for n in range(6)]
    lines = printed(llamaleon, server, resident(bank=bank(alone=alone)))
    assert "  alone   nano+a0@1: it has an embedding" in lines
    assert "  alone   2 more" in lines


def test_many_adapters_are_cut_those_in_use_stay(llamaleon: Llamaleon, server: FakeServer) -> None:
    many = [hot(f"nano+a{n}@1", users=int(n == 29)) for n in range(30)] + [hot(None)]
    [line] = [
        line for line in printed(llamaleon, server, resident(bank=bank(hot=many))) if "nano+a0@1" in line
    ]
    assert line.split(", ")[0].strip() == "nano+a29@1 (1 running)"
    assert line.endswith(", 19 more")
    [nameless] = printed(llamaleon, server, resident(bank=bank(hot=[hot(None)])))[5:6]
    assert nameless.strip() == KEY[:12]


def test_pins_that_wait_and_drafts_are_told(llamaleon: Llamaleon, server: FakeServer) -> None:
    step = {**resident()["step"], "drafted_tokens": 1200, "accepted_tokens": 840}
    lines = printed(llamaleon, server, resident(bank=bank(hot=[]), step=step))
    assert "  pinned  nano+sql@1 (not in the bank yet)" in lines
    assert any(line.endswith("70% of 1.2k guessed tokens right") for line in lines)


def test_in_a_terminal_of_80_columns_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(width=80, force_terminal=True, no_color=True, highlight=False, record=True)
    monkeypatch.setattr(residents, "wide_console", lambda: terminal)
    long = resident(name="organisation/" + "very-long-model-name-" * 3 + "q4_k_m")
    residents.print_residents([resident(), long])
    text = terminal.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    folded = "".join(line.split("   ")[0].strip() for line in text.splitlines()[7:])
    assert long["name"] in folded.replace("  ", "")
    assert text.count("143") == 2


def test_a_narrow_terminal_breaks_lines_and_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(width=30, force_terminal=True, no_color=True, highlight=False, record=True)
    monkeypatch.setattr(residents, "wide_console", lambda: terminal)
    residents.print_residents([resident()])
    lines = terminal.export_text().splitlines()
    assert lines[0].split()[:4] == ["MODEL", "STATE", "MEMORY", "RUNNING"]
    assert lines[1].split()[0] == resident()["name"]
    assert max(len(line) for line in lines[2:]) <= 30


def test_json_gives_all(llamaleon: Llamaleon, server: FakeServer) -> None:
    server.residents = [resident()]
    answer = json.loads(llamaleon("ps", "--json", "--url", server.url).stdout)
    assert answer == {"object": "list", "data": server.residents}


def test_pin_and_unpin(llamaleon: Llamaleon, server: FakeServer) -> None:
    assert llamaleon("pin", "org/base+señor@2", "--url", server.url).stdout == "Pinned org/base+señor@2.\n"
    assert llamaleon("unpin", "señor", "--url", server.url).stdout == "Unpinned señor.\n"
    assert server.requests == [("POST", "pin", "org/base+señor@2"), ("POST", "unpin", "señor")]
    refused = llamaleon("unpin", "nada", "--url", server.url)
    assert (refused.exit_code, refused.stderr) == (1, "Error: `nada` is not pinned. (field: model)\n")
