"""Means over the last passes, counters since the start."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from llamaleon_server.engine.stats import WINDOW, StepRecorder
from llamaleon_server.engine.status import StepStatus


def a_pass(**given: Any) -> dict[str, Any]:
    return {
        "seconds": 0.01,
        "host_seconds": 0.001,
        "sequences": 1,
        "tokens": 1,
        "adapters": 0,
        "intercepted": False,
        "mixed": False,
        "tokens_in": 0,
        "tokens_out": 1,
        "drafted": 0,
        "accepted": 0,
        **given,
    }


def test_before_the_first_pass_everything_is_zero() -> None:
    assert StepRecorder().status() == StepStatus()


def test_counters_add_up_and_means_are_means() -> None:
    recorder = StepRecorder()
    recorder.record(**a_pass(seconds=0.1, host_seconds=0.02, sequences=2, tokens=7, tokens_in=5, drafted=4))
    recorder.record(
        **a_pass(
            seconds=0.3, host_seconds=0.04, sequences=4, tokens=9, adapters=3, intercepted=True, mixed=True,
            tokens_out=6, drafted=3, accepted=2,
        )
    )  # fmt: skip
    status = recorder.status()
    assert (status.steps, status.mixed_steps, status.intercepted_steps) == (2, 1, 1)
    assert (status.tokens_in, status.tokens_out) == (5, 7)
    assert (status.drafted_tokens, status.accepted_tokens) == (7, 2)
    assert (status.sequences_mean, status.tokens_mean, status.adapters_mean) == (3.0, 8.0, 1.5)
    assert status.p99_s == 0.3
    assert status.mean_s == pytest.approx(0.2)
    assert status.host_mean_s == pytest.approx(0.03)


def test_means_forget_what_is_older_than_the_window_counters_do_not() -> None:
    recorder = StepRecorder()
    recorder.record(**a_pass(seconds=60.0, sequences=1000))
    for _ in range(WINDOW):
        recorder.record(**a_pass(seconds=0.01, sequences=8))
    status = recorder.status()
    assert status.steps == WINDOW + 1
    assert (status.p99_s, status.sequences_mean) == (0.01, 8.0)


def test_the_p99_is_the_nearest_rank() -> None:
    recorder = StepRecorder()
    for number in range(1, 101):
        recorder.record(**a_pass(seconds=float(number)))
    assert recorder.status().p99_s == 99.0


def test_a_reader_in_another_thread_sees_whole_passes() -> None:
    recorder, stop = StepRecorder(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            recorder.record(**a_pass(tokens_in=1, tokens_out=1))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        seen = [recorder.status() for _ in range(200)]
    finally:
        stop.set()
        worker.join()
    assert all(status.steps == status.tokens_in == status.tokens_out for status in seen)
    assert seen[-1].steps > seen[0].steps


def test_recording_is_far_cheaper_than_a_step() -> None:
    recorder, one = StepRecorder(), a_pass()
    best = min(_seconds_of(lambda: recorder.record(**one), 1000) for _ in range(20))
    assert best < 5e-6


def _seconds_of(action: Any, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - began) / times
