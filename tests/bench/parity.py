"""Trainer against served adapter, mean KL per token, for the file types a base comes in."""

from __future__ import annotations

from pathlib import Path

from tests.bench.figures import Figure
from tests.data import NANO, REPOSITORY
from tests.integration.flow import events, start_job, wait_for
from tests.server import RunningServer
from tests.tiny.quantize import quantize

REPORTS = REPOSITORY / "clients/llamaleon_clients/demo_data/reports_train.jsonl"
GOALS = {"F32": "1e-6", "F16": "1e-4", "Q8_0": "stated", "Q4_K_M": "stated"}


def measure(scratch: Path) -> list[Figure]:
    bases = {kind: quantize(NANO, scratch / f"nano-{kind.lower()}.gguf", kind) for kind in GOALS}
    rows = REPORTS.read_text(encoding="utf-8").splitlines()[:64]
    data = scratch / "rows.jsonl"
    data.write_text("\n".join(rows) + "\n", encoding="utf-8")
    arguments = [part for path in bases.values() for part in ("--model", str(path))]
    figures = []
    with RunningServer(scratch / "home", arguments) as server:
        client = server.openai()
        for kind, path in bases.items():
            job = wait_for(
                client, start_job(client, data, path.stem, "parity", n_epochs=1, learning_rate=1e-3).id
            )
            proofs = [e.data for e in events(client, job.id) if e.data and "mean_kl" in e.data]
            base, adapter = proofs[0], proofs[-1]
            figures.append(
                Figure(
                    f"parity on {kind}: base alone {base['mean_kl']:.1e}, "
                    f"largest logit difference {adapter['max_abs_diff']:.1e}",
                    f"{adapter['mean_kl']:.1e}",
                    GOALS[kind],
                    {"base_kl": base["mean_kl"], "adapter_kl": adapter["mean_kl"]},
                )
            )
    return figures
