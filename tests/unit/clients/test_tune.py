"""`llamaleon tune`: trials are jobs, bad ones are cancelled, the best one serves; a search goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.unit.clients import fake_server
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import ENDED, FakeServer, Json, error, event, running

from llamaleon_clients.errors import BadInput
from llamaleon_clients.search import trials
from llamaleon_clients.search.space import space_of

EVALUATIONS = 4  # of a job that is not cancelled
BEST = 1e-4  # learning rate, of the losses that the fake makes up


class Tuning(FakeServer):
    """Each look at a running job brings one held-out loss; it is the lower the nearer the rate is to BEST."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: dict[str, Json] = {}
        self.promoted: list[str] = []
        self.removed: list[str] = []
        self.listed: dict[str, str] = {}  # id of a version -> its ft: name
        self.refused: set[float] = set()  # learning rates whose job fails
        self.worse = False  # every adapter does worse than its base
        self.stop_after: int | None = None  # looks; then every answer is an error

    def routes(self) -> list[Route]:
        return [
            Route("/llamaleon/adapters/{name:path}/promote", self.promote, methods=["POST"]),
            Route("/llamaleon/adapters/{name:path}/versions", self.versions, methods=["GET"]),
            Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
            *super().routes(),
        ]

    async def promote(self, request: Request) -> Response:
        self.promoted.append(request.path_params["name"])
        return JSONResponse({"id": "nano+poeta@7", "base": "nano", "name": "poeta"})

    async def versions(self, request: Request) -> Response:
        """Of every job that ended by itself, as if one had left a checkpoint, and one of somebody else's."""
        names = [job["fine_tuned_model"] for job in self.jobs.values() if job.get("fine_tuned_model")]
        names += [f"{names[0]}:ckpt-step-9", "ft:nano:local:poeta:somebody", None]
        data = [{"id": f"nano+poeta@{at}", "ft_name": name} for at, name in enumerate(names)]
        self.listed = {one["id"]: str(one["ft_name"]) for one in data}
        return JSONResponse({"object": "list", "id": "nano+poeta", "data": data, "deployments": []})

    async def unload(self, request: Request) -> Response:
        self.removed.append((await request.json())["lora_name"])
        return JSONResponse({})

    async def create_job(self, request: Request) -> Response:
        answer = await super().create_job(request)
        body = await request.json()
        assert body["deploy"] is False
        self.bodies[f"ftjob-{len(self.jobs)}"] = {
            **body["method"]["supervised"]["hyperparameters"],
            "seed": body["seed"],
            "training_file": body["training_file"],
        }
        return answer

    async def one_job(self, request: Request) -> Response:
        name = request.path_params["job"]
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after < 0:
                return error(500, "the machine is on fire")
        if name not in self.jobs:
            return error(404, "no such job")
        job, asked, seen = self.jobs[name], self.bodies[name], self.events[name]
        if job["status"] in ENDED:
            return JSONResponse(job)
        job["status"] = "running"
        count = len(seen) + 1
        loss = 1 + abs(math.log10(asked["learning_rate"] / BEST)) + 1 / count
        number = 1000 * len(self.jobs) + count
        if asked["learning_rate"] in self.refused:
            job.update(status="failed", error={"code": "diverged", "message": "It diverged."})
        elif count <= EVALUATIONS:
            seen.append(event(number, "eval", {"step": count * 10, "valid_loss": loss}))
        else:
            done = {"evaluation": {"base": {"loss": 9.0}, "adapter": {"loss": loss}, "rows": 2}}
            seen.append(event(number, "evaluated", done))
            job.update(status="succeeded", fine_tuned_model=f"ft:nano:local:poeta:{name}")
            if self.worse:
                job.update(status="failed", error={"code": "worse_than_base", "message": "Worse."})
        return JSONResponse(job)


@pytest.fixture
def tuning(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tuning]:
    monkeypatch.setattr(fake_server, "FakeServer", Tuning)
    monkeypatch.setattr(trials, "POLL_S", 0.0)
    with running() as fake:
        assert isinstance(fake, Tuning)
        yield fake


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "filas.jsonl"
    path.write_text('{"text": "¿?"}\n', encoding="utf-8")
    return path


def tune(llamaleon: Llamaleon, tuning: Tuning, rows: Path, *more: str) -> Any:
    line = ("tune", str(rows), "--base", "nano", "--name", "poeta", "--url", tuning.url, "--seed", "5")
    return llamaleon(*line, *more)


def test_the_best_trial_serves_and_the_others_go(llamaleon: Llamaleon, tuning: Tuning, rows: Path) -> None:
    result = tune(llamaleon, tuning, rows, "--trials", "8", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    complete = [one for one in found["trials"] if one["state"] == "complete"]
    pruned = [one for one in found["trials"] if one["state"] == "pruned"]
    assert len(complete) + len(pruned) == 8
    best = min(complete, key=lambda one: one["loss"])
    nearest = min(found["trials"], key=lambda one: abs(math.log10(one["settings"]["learning_rate"] / BEST)))
    assert found["best"] == best["number"] == nearest["number"]
    assert tuning.promoted == [f"ft:nano:local:poeta:{best['job']}"]
    losers = {f"ft:nano:local:poeta:{one['job']}" for one in complete} - set(tuning.promoted)
    removed = [tuning.listed[name] for name in tuning.removed]
    assert losers == {name for name in removed if "ckpt" not in name}
    first = f"ft:nano:local:poeta:{complete[0]['job']}"
    assert (f"{first}:ckpt-step-9" in removed) == (first in losers)
    # Pruned means cancelled, before its last loss.
    assert pruned
    for one in pruned:
        assert tuning.jobs[one["job"]]["status"] == "cancelled"
        assert len(tuning.events[one["job"]]) < EVALUATIONS
    asked = list(tuning.bodies.values())
    assert {body["seed"] for body in asked} == {5}
    assert {body["training_file"] for body in asked} == {"file-1"}  # sent once
    assert len(tuning.uploads) == 1
    assert {body["lora_r"] for body in asked} <= {4, 8, 16, 32}
    assert all(1e-5 <= body["learning_rate"] <= 1e-3 for body in asked)


def test_the_table_and_the_ranges(llamaleon: Llamaleon, tuning: Tuning, rows: Path) -> None:
    ranges = ("--learning-rate", "1e-4", "--rank", "4", "--batch-size", "2,8", "--max-steps", "9")
    result = tune(llamaleon, tuning, rows, "--trials", "2", *ranges)
    assert result.exit_code == 0, result.stderr
    for body in tuning.bodies.values():
        assert (body["learning_rate"], body["lora_r"], body["max_steps"]) == (1e-4, 4, 9)
        assert body["batch_size"] in {2, 8}
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["TRIAL", "LEARNING", "RATE"]
    assert "1.2000  complete   ftjob-1" in " ".join(lines[1].split()).replace(" complete", "  complete  ")
    assert lines[-1].startswith("Trial 0 is the best: nano+poeta is nano+poeta@7 now.")


def test_a_search_goes_on_with_the_job_that_ran(llamaleon: Llamaleon, tuning: Tuning, rows: Path) -> None:
    tuning.stop_after = 8
    broken = tune(llamaleon, tuning, rows, "--trials", "4")
    assert broken.exit_code == 1
    assert "on fire" in broken.stderr
    begun = len(tuning.jobs)
    assert begun == 2
    tuning.stop_after = None
    result = tune(llamaleon, tuning, rows, "--trials", "4", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["trials"]
    # The second job was not begun again: it went on, to its end.
    assert [one["job"] for one in found] == [f"ftjob-{number}" for number in (1, 2, 3, 4)]
    assert found[1]["state"] in {"complete", "pruned"}
    assert len({one["settings"]["learning_rate"] for one in found}) == 4
    again = tune(llamaleon, tuning, rows, "--trials", "4")
    assert again.exit_code == 0
    assert len(tuning.jobs) == 4


def test_other_ranges_are_another_search(llamaleon: Llamaleon, tuning: Tuning, rows: Path) -> None:
    tune(llamaleon, tuning, rows, "--trials", "1")
    other = tune(llamaleon, tuning, rows, "--trials", "2", "--rank", "2")
    assert other.exit_code == 1
    assert "begun with other ranges" in other.stderr
    elsewhere = ("--study", str(rows.parent / "mine.db"))
    assert tune(llamaleon, tuning, rows, "--trials", "1", "--rank", "2", *elsewhere).exit_code == 0


def test_failed_trials_do_not_win(llamaleon: Llamaleon, tuning: Tuning, rows: Path) -> None:
    tuning.refused = {1e-4}
    result = tune(llamaleon, tuning, rows, "--trials", "2", "--learning-rate", "1e-4")
    assert result.exit_code == 1
    assert "nothing was deployed" in result.stderr
    assert "failed: It diverged." in result.stdout
    assert tuning.promoted == []


def test_adapters_worse_than_the_base_are_measured_and_not_served(
    llamaleon: Llamaleon, tuning: Tuning, rows: Path
) -> None:
    tuning.worse = True
    result = tune(llamaleon, tuning, rows, "--trials", "1")
    assert result.exit_code == 1
    assert "complete: Worse." in result.stdout
    assert tuning.promoted == []


def test_a_job_file_has_the_rest(llamaleon: Llamaleon, tuning: Tuning, rows: Path) -> None:
    job = rows.parent / "job.yml"
    job.write_text(f"base: nano\ndata: {rows.name}\nname: poeta\nn_epochs: 3\nseed: 9\n")
    result = llamaleon("tune", str(job), "--trials", "1", "--url", tuning.url)
    assert result.exit_code == 0, result.stderr
    [body] = tuning.bodies.values()
    assert (body["n_epochs"], body["seed"]) == (3, 9)


@pytest.mark.parametrize(
    ("rate", "rank", "batch", "said"),
    [
        ("x", "4", "2", "--learning-rate"),
        ("1e-3:1e-4", "4", "2", "--learning-rate"),
        ("0:1e-4", "4", "2", "--learning-rate"),
        ("1e-4", "4,x", "2", "--rank"),
        ("1e-4", "4", "0", "--batch-size"),
    ],
)
def test_ranges_that_are_none(rate: str, rank: str, batch: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        space_of(rate, rank, batch)
