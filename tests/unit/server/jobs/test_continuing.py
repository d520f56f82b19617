"""Training that goes on from an adapter, a version of it, or a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.jobs.conftest import Service, rows, serving
from tests.unit.server.jobs.fake_trainer import CHECKPOINT

from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.jobstore import JobRecord


async def trained(service: Service) -> JobRecord:
    job = await service.ended(service.create(rows(20)))
    assert job.status == "succeeded", service.messages(job)
    return job


def spec(service: Service, job: JobRecord) -> dict[str, Any]:
    text = (service.jobs.store.directory(job.id) / "spec.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("form", ["tiny+espejo", "espejo", "tiny+espejo@1", "ft", "checkpoint"])
async def test_every_name_of_an_adapter_can_be_trained_on(home: Path, form: str) -> None:
    async with serving(home) as service:
        first = await trained(service)
        [point] = service.jobs.store.checkpoints(first.id, after=None, limit=5)[0]
        name = {"ft": str(first.fine_tuned_model), "checkpoint": point.ft_name}.get(form, form)
        weights = service.registry.resolve(name).adapters[0][0].directory / "peft"
        begun = (weights / "adapter_model.safetensors").read_bytes()
        service.engines.adapter_loss = 0.5
        taken: list[bytes] = []
        train = service.jobs._pipeline._stages["train"]

        async def look(record: JobRecord) -> JobRecord:
            init = Path(spec(service, record)["init_adapter"])
            taken.append((init / "adapter_model.safetensors").read_bytes())
            return await train(record)

        service.jobs._pipeline._stages["train"] = look
        second = service.create(rows(24), model=name, suffix="más")
        assert (second.base, second.model) == ("tiny", name)
        second = await service.ended(second)
        assert second.status == "succeeded", service.messages(second)
        assert taken == [begun], "the weights lie in the job's own directory while it trains"
        assert service.registry.resolve("tiny+más").adapters[0][0].base == "tiny"
        lora = spec(service, second)["lora"]
        assert (lora["r"], lora["lora_alpha"], lora["target_modules"]) == (2, 4.0, ["q_proj"])
        assert point.step == CHECKPOINT


async def test_what_the_adapter_fixes_cannot_be_asked_for_otherwise(home: Path) -> None:
    async with serving(home) as service:
        await trained(service)
        given = {"lora_r": 2, "lora_alpha": 4, "learning_rate": 1e-3}
        assert service.create(rows(20), model="tiny+espejo", hyperparameters=given).requested["lora_r"] == 2
        with pytest.raises(BadRequest, match="`lora_r` is 2") as caught:
            service.create(rows(20), model="tiny+espejo", hyperparameters={"lora_r": 8})
        assert caught.value.param == "method.supervised.hyperparameters.lora_r"


async def test_what_cannot_be_trained_on_is_told_before_anything_starts(home: Path) -> None:
    async with serving(home) as service:
        await trained(service)
        with pytest.raises(BadRequest, match="is a blend"):
            service.create(rows(20), model="tiny+espejo*0.5")
        peft = service.registry.resolve("tiny+espejo").adapters[0][0].directory / "peft"
        config = json.loads((peft / "adapter_config.json").read_text())
        (peft / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
        with pytest.raises(BadRequest, match="it has DoRA"):
            service.create(rows(20), model="tiny+espejo")
        (peft / "adapter_config.json").unlink()
        with pytest.raises(BadRequest, match="has no PEFT weights") as caught:
            service.create(rows(20), model="tiny+espejo")
        assert caught.value.param == "model"
        assert "start from `tiny`" in caught.value.message


async def test_an_adapter_deleted_before_it_was_read_fails_the_job(home: Path) -> None:
    async with serving(home) as service:
        await trained(service)
        job = service.create(rows(20), model="tiny+espejo", suffix="otro")
        service.registry.delete("tiny+espejo@1")
        job = await service.ended(job)
        assert job.error is not None
        assert job.error.code == "adapter_deleted"
