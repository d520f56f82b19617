"""Rates of counters, the line in the log, and engines that do not answer."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.unit.server.residents.test_residents import Stage, base, stage, until

from llamaleon_server.engine.status import BankStatus, EngineStatus, HotAdapter, PrefixStatus, StepStatus
from llamaleon_server.residents.throughput import Meter, Rates, Vitals, log_line

__all__ = ["base", "stage"]  # fixtures


def counted(tokens: int) -> StepStatus:
    return StepStatus(steps=tokens // 4, tokens_in=tokens * 10, tokens_out=tokens)


def test_rates_need_two_moments_far_enough_apart() -> None:
    meter = Meter()
    assert meter.rates() is None
    meter.add(counted(0), 100.0)
    meter.add(counted(40), 101.0)
    assert meter.rates() is None
    meter.add(counted(100), 104.0)
    assert meter.rates() == Rates(seconds=3.0, tokens_in=200.0, tokens_out=20.0, steps=5.0)
    meter.add(counted(100), 140.0)
    assert meter.rates() is None, "what was long ago says nothing about now"


def test_the_line_says_what_a_busy_engine_does() -> None:
    hot = HotAdapter(key="k", first_rank=0, rank=16, pinned=False, users=1)
    status = EngineStatus(
        running=8,
        waiting=2,
        kv_used_tokens=340,
        kv_total_tokens=1000,
        adapters=["k"],
        resident_bytes=0,
        step=StepStatus(sequences_mean=7.94, adapters_mean=3.1, mean_s=0.0931),
        bank=BankStatus(mixing=True, total_ranks=256, used_ranks=16, hot=[hot]),
        prefix=PrefixStatus(hit_tokens=61, prompt_tokens=100),
    )
    rates = Rates(seconds=10.0, tokens_in=812.3, tokens_out=143.21, steps=18.0)
    assert log_line(Vitals(status=status, rates=rates)) == (
        "812 prompt tokens/s, 143.2 generated tokens/s, 8 running, 2 waiting, "
        "7.9 sequences and 3.1 adapters a pass, 93 ms a pass, KV cache 34%, prefix hits 61%, "
        "bank 16 of 256 ranks (1 adapter)"
    )
    fresh = EngineStatus(
        running=1, waiting=0, kv_used_tokens=0, kv_total_tokens=0, adapters=[], resident_bytes=0
    )
    assert log_line(Vitals(status=fresh, rates=None)).endswith("KV cache -, prefix hits -")


async def test_a_busy_engine_is_logged_and_an_idle_one_is_not(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llamaleon_server.residents.residents.REPORT_S", 0.03)
    caplog.set_level(logging.INFO, "llamaleon_server.residents")

    def lines() -> list[str]:
        return [message for message in caplog.messages if "running" in message]

    await stage.say()
    await until(lines)
    before = len(lines())
    await asyncio.sleep(0.15)
    assert len(lines()) <= before + 1  # the end of the work, at most
    before = len(lines())
    await stage.say()
    await until(lambda: len(lines()) > before)
    assert lines()[-1].startswith("tiny: ")


async def test_an_engine_that_does_not_answer_holds_up_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.say()
    [(name, vitals)] = (await stage.residents.vitals()).items()
    assert (name, vitals.status.step.tokens_out) == ("tiny", len("Hola, ¿qué tal?"))
    monkeypatch.setattr("llamaleon_server.residents.residents.STATUS_TIMEOUT_S", 0.05)
    stage.engines.last.mute = True
    async with asyncio.timeout(30):
        assert await stage.residents.vitals() == {}
    stage.engines.last.mute = False
    assert await stage.say() == "Hola, ¿qué tal?"
    assert list(await stage.residents.vitals()) == ["tiny"]
