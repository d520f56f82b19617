"""`make bench` sends ten thousand requests; this sends some hundred of the same mix."""

from __future__ import annotations

from pathlib import Path

from tests.bench.soak import KINDS, soak


def test_mixed_requests_all_succeed_and_memory_settles(tmp_path: Path) -> None:
    done = soak(tmp_path, 200)
    assert done.errors == []
    assert set(done.kinds) == KINDS
