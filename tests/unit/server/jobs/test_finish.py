"""What an adapter is measured by, after its training."""

from __future__ import annotations

from pathlib import Path

from llamaleon_server.jobs.finish import _base_kl
from llamaleon_trainer.events import EventWriter


def test_how_far_the_base_was_off_is_what_the_trainer_said_last(tmp_path: Path) -> None:
    assert _base_kl(tmp_path) == 0.0
    events = EventWriter(tmp_path / "events.jsonl")
    events.write("base_checked", mean_kl=1e-3, max_abs_diff=0.1, tokens=100)
    events.write("paused", step=3)
    events.write("base_checked", mean_kl=2e-3, max_abs_diff=0.1, tokens=100)  # of the trainer that went on
    events.write("step", step=4)
    events.close()
    assert _base_kl(tmp_path) == 2e-3
