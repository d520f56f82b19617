"""A trainer that trains nothing: `python fake_trainer.py MODE JOB_DIR` writes what a real one would.

Modes: good; dies (killed once, in the middle); cursed (killed every time); fails (says so);
silent (exits without a word in its events);
wrong (its logits are not those that will be served); slow (goes on until it is told to stop);
patient (as slow, but once resumed it goes on to its end). Those two pause when they are told to.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

import numpy as np
from tests.unit.server.registry.peft import write_peft

STEPS, CHECKPOINT, DEATH = 6, 3, 5
LONGEST_S = 120.0  # it outlives a server that leaves it behind, as the real one does, but not for ever


def logits(sequences: list[list[int]], *, adapted: bool) -> dict[str, Any]:
    """What the fake engine and the fake trainer both compute, (n_tokens, 4) a sequence."""
    shift = np.array([0.0, 1.0, 0.0, 0.0]) * adapted
    return {
        str(at): (np.outer(np.asarray(tokens) % 7, [1.0, 0.5, 0.25, 0.0]) + shift).astype(np.float32)
        for at, tokens in enumerate(sequences)
    }


class Trainer:
    def __init__(self, mode: str, directory: Path) -> None:
        self.mode, self.directory = mode, directory
        self.told = False
        signal.signal(signal.SIGTERM, self.stop)
        self.events = (directory / "events.jsonl").open("a")

    def stop(self, *_: object) -> None:
        self.told = True

    def say(self, kind: str, **data: Any) -> None:
        self.events.write(json.dumps({"type": kind, "time": time.time(), "data": data}) + "\n")
        self.events.flush()

    def run(self) -> None:
        first = CHECKPOINT + 1 if (self.directory / "checkpoints" / f"step-{CHECKPOINT}").exists() else 1
        self.say("started", pid=os.getpid(), resumed_from_step=first - 1, steps=STEPS, train_rows=9)
        if self.mode == "fails":
            self.say("failed", code="out_of_memory", message="not enough memory for one row")
            sys.exit(1)
        if self.mode == "silent":
            sys.exit("no module named torch")
        if self.mode == "cursed":
            os.kill(os.getpid(), signal.SIGKILL)
        if first == 1:
            self.say("estimate", memory_bytes=3_200_000_000, seconds=95.0, basis="measured")
            if json.loads((self.directory / "spec.json").read_text())["find_learning_rate"]:
                self.say("lr_found", learning_rate=0.00123456, tried=[1e-5, 1e-1], losses=[2.0, 9.0])
        self.say("base_checked", mean_kl=1e-9, max_abs_diff=1e-4, tokens=5)
        for step in range(first, STEPS + 1):
            self.step(step, killed=self.mode == "dies" and first == 1 and step == DEATH)
        end = time.monotonic() + LONGEST_S
        while time.monotonic() < end and (self.mode == "slow" or (self.mode == "patient" and first == 1)):
            if (self.directory / "cancel").exists():
                self.say("cancelled", step=STEPS)
                return
            if self.told or (self.directory / "pause").exists():
                self.say("paused", step=STEPS)
                return
            time.sleep(0.02)
        write_peft(self.directory / "adapter", seed=1)
        probe = json.loads((self.directory / "probe.json").read_text())
        np.savez(self.directory / "probe.adapter.npz", **logits(probe, adapted=self.mode != "wrong"))
        self.say("finished", steps=STEPS, trained_tokens=STEPS * 10, seconds=1.0, adapter="adapter")

    def step(self, step: int, *, killed: bool) -> None:
        self.say(
            "step", step=step, train_loss=5.0 - step, train_accuracy=0.1, trained_tokens=10 * step, eta_s=3.0
        )
        if step == CHECKPOINT:
            self.say("eval", step=step, valid_loss=2.5, valid_accuracy=0.2)
            write_peft(self.directory / "checkpoints" / f"step-{step}", seed=2)
            self.say("checkpoint", step=step, path=f"checkpoints/step-{step}", train_loss=2.0, valid_loss=2.5)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    here = Path(sys.argv[2])
    (here / "checkpoints").mkdir(exist_ok=True)
    with (here / "trainer.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        Trainer(sys.argv[1], here).run()
