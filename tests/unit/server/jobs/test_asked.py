"""Evaluations that are asked for, of adapters that a job made: what those were trained on, and examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.server.jobs.conftest import Service, rows, serving

from llamaleon_server.errors import BadRequest
from llamaleon_server.jobs.asked import evaluate_asked
from llamaleon_server.wire.evaluations import Evaluation, EvaluationRequest


async def evaluated(service: Service, **asked: Any) -> Evaluation:
    request = msgspec.convert({"model": "tiny+espejo", **asked}, EvaluationRequest)
    events = [event async for event in evaluate_asked(service.registry, service.residents, request)]
    result = events[-1].result
    assert result is not None
    return result


async def test_an_adapter_says_which_rows_it_was_trained_on(home: Path) -> None:
    async with serving(home) as service:
        data = rows(20)
        await service.ended(service.create(data))
        seen = await evaluated(service, file=service.upload([*data, *rows(25)[20:]]))
        assert seen.rows == 25
        (overlap,) = seen.trained_on
        assert (overlap.adapter, overlap.rows) == ("tiny+espejo@1", 18), "two of the 20 were held out"
        assert set(overlap.lines) <= set(range(1, 21))
        assert (await evaluated(service, file=service.upload(rows(25)[20:]))).trained_on == []
        assert (await evaluated(service, model="tiny", file=service.upload(data))).trained_on == []


async def test_examples_come_from_what_the_adapter_was_trained_on(home: Path) -> None:
    async with serving(home) as service:
        await service.ended(service.create(rows(20)))
        file = service.upload(rows(25)[20:])
        found = await evaluated(service, file=file, few_shot=2, against="tiny")
        assert found.shots == 2
        exact = found.metrics["exact_match"]
        assert exact.figures["model"].value == 1.0
        assert exact.figures["against"].value == 0.0
        assert exact.differences["against"].value == 1.0
        assert found.metrics["loss"].figures["model"].value == pytest.approx(1.0)
        assert found.metrics["loss"].differences["against"].value == pytest.approx(-1.0)


async def test_examples_are_asked_for_where_the_training_file_is_gone(home: Path) -> None:
    async with serving(home) as service:
        job = await service.ended(service.create(rows(20)))
        file = service.upload(rows(25)[20:])
        service.registry.files.delete(job.training_file)
        with pytest.raises(BadRequest, match="examples_file"):
            await evaluated(service, file=file, few_shot=2)


async def test_closing_ends_what_runs(home: Path) -> None:
    async with serving(home) as service:
        await service.ended(service.create(rows(20)))
        request = EvaluationRequest(model="tiny", file=service.upload(rows(20)))
        events = evaluate_asked(service.registry, service.residents, request)
        assert (await anext(events)).done == 0
        await events.aclose()
        async with service.residents.lease(service.registry.resolve("tiny").base) as engine:
            assert not engine.busy
