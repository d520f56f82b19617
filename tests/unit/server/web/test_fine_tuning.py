"""`/v1/fine_tuning/jobs` over HTTP: what is refused at once, and how jobs are listed."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from tests.api import Api, error_of

from llamaleon_server.registry.jobstore import JobError

JOBS = "/v1/fine_tuning/jobs"


async def file_id(api: Api) -> str:
    return api.services.registry.files.put("a.jsonl", "fine-tune", b'{"text": "hola"}\n').id


async def create(api: Api, **more: Any) -> dict[str, Any]:
    response = await api.post(JOBS, **{"model": "tiny", "training_file": await file_id(api), **more})
    assert response.status_code == 200, response.text
    job: dict[str, Any] = response.json()
    return job


async def test_a_new_job_has_every_field_of_the_specification(api: Api) -> None:
    job = await create(api, suffix="sql", seed=5, hyperparameters={"n_epochs": "auto", "batch_size": 4})
    assert job == {
        "id": job["id"],
        "object": "fine_tuning.job",
        "created_at": job["created_at"],
        "finished_at": None,
        "model": "tiny",
        "fine_tuned_model": None,
        "organization_id": "org-local",
        "status": "validating_files",
        "hyperparameters": {"n_epochs": "auto", "batch_size": 4, "learning_rate_multiplier": "auto"},
        "training_file": job["training_file"],
        "validation_file": None,
        "result_files": [],
        "trained_tokens": None,
        "error": None,
        "seed": 5,
        "integrations": None,
        "estimated_finish": None,
        "method": {
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"n_epochs": "auto", "batch_size": 4, "learning_rate_multiplier": "auto"}
            },
        },
        "metadata": None,
        "deploy": True,
    }
    assert job["id"].startswith("ftjob-")


def supervised(**hyperparameters: Any) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}


def dpo(**hyperparameters: Any) -> dict[str, Any]:
    return {"method": {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}}


WHERE = "method.supervised.hyperparameters"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"training_file": None}, "training_file"),
        ({"validation_file": "file-nothing"}, "validation_file"),
        ({"suffix": "con espacio"}, "suffix"),
        ({"seed": True}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"colour": "red"}, "colour"),
        ({"integrations": {"type": "wandb"}}, "integrations"),
        ({"integrations": [{"type": "mlflow"}]}, "integrations[0].type"),
        ({"integrations": [{"type": "wandb"}]}, "integrations[0].wandb"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": ""}}]}, "integrations[0].wandb.project"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x", "y": 1}}]}, "integrations[0].wandb"),
        (
            {"integrations": [{"type": "wandb", "wandb": {"project": "x", "tags": ["t"] * 33}}]},
            "integrations[0].wandb.tags",
        ),
        ({"integrations": [{"type": "tensorboard"}, {"type": "tensorboard"}]}, "integrations[1]"),
        ({"integrations": [{"type": "tensorboard", "tensorboard": {"x": 1}}]}, "integrations[0].tensorboard"),
        ({"deploy": "no"}, "deploy"),
        ({"text_template": "no columns"}, "text_template"),
        ({"text_template": "{open"}, "text_template"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
        ({"method": {"type": "dpo", "dpo": {"beta": 1}}}, "method.dpo.beta"),
        (dpo(beta=0), "method.dpo.hyperparameters.beta"),
        (dpo(beta=2.5), "method.dpo.hyperparameters.beta"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"method": {"type": "other"}}, "method.type"),
        (supervised(beta=0.1), f"{WHERE}.beta"),
        (supervised(gate_metric="beauty"), f"{WHERE}.gate_metric"),
        ({"method": []}, "method"),
        ({"method": {"type": "supervised", "extra": 1}}, "method.extra"),
        ({"method": {"supervised": {"extra": 1}}}, "method.supervised.extra"),
        (supervised(n_epoch=3), f"{WHERE}.n_epoch"),
        (supervised(n_epochs=51), f"{WHERE}.n_epochs"),
        (supervised(n_epochs=1.5), f"{WHERE}.n_epochs"),
        (supervised(n_epochs=10**400), f"{WHERE}.n_epochs"),  # larger than any float
        (supervised(weight_decay=10**400), f"{WHERE}.weight_decay"),
        (supervised(batch_size=True), f"{WHERE}.batch_size"),
        (supervised(learning_rate_multiplier=0), f"{WHERE}.learning_rate_multiplier"),
        (supervised(learning_rate="fast"), f"{WHERE}.learning_rate"),
        (supervised(learning_rate=1e-4, learning_rate_multiplier=2), f"{WHERE}.learning_rate"),
        (supervised(lora_dropout=1), f"{WHERE}.lora_dropout"),
        ({"hyperparameters": 3}, "hyperparameters"),
        ({"hyperparameters": {"n_epochs": 2}, **supervised(n_epochs=3)}, "hyperparameters"),
    ],
)
async def test_every_mistake_names_its_field(api: Api, fields: dict[str, Any], param: str) -> None:
    body = {"model": "tiny", "training_file": await file_id(api)} | fields
    response = await api.post(JOBS, **{key: value for key, value in body.items() if value is not None})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert (await api.http.get(JOBS)).json()["data"] == []


async def test_a_dpo_job_shows_its_own_method(api: Api) -> None:
    job = await create(api, **dpo(beta=0.2, n_epochs=1))
    assert job["method"] == {
        "type": "dpo",
        "dpo": {
            "hyperparameters": {
                "beta": 0.2,
                "n_epochs": 1,
                "batch_size": "auto",
                "learning_rate_multiplier": "auto",
            }
        },
    }


async def test_why_reinforcement_is_refused_says_what_to_do_instead(api: Api) -> None:
    response = await api.post(
        JOBS, model="tiny", training_file=await file_id(api), method={"type": "reinforcement"}
    )
    assert "`dpo`" in response.json()["error"]["message"]


async def test_a_reporter_that_is_not_installed_is_told_before_anything_runs(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else known(name))
    wandb = {"type": "wandb", "wandb": {"project": "p", "name": None, "tags": ["a"]}}
    response = await api.post(JOBS, model="tiny", training_file=await file_id(api), integrations=[wandb])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "integrations[0]"
    assert "pip install wandb" in response.json()["error"]["message"]
    assert (await api.http.get(JOBS)).json()["data"] == []

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: known("json"))
    job = await create(api, integrations=[wandb])
    assert job["integrations"] == [
        {"type": "wandb", "wandb": {"project": "p", "name": None, "entity": None, "tags": ["a"]}}
    ]


async def test_pause_and_resume(api: Api) -> None:
    job = await create(api)
    path = f"{JOBS}/{job['id']}"
    assert (await api.http.post(f"{path}/pause")).json()["status"] == "paused"
    assert (await api.http.post(f"{path}/resume")).json()["status"] in {"validating_files", "queued"}
    refused = await api.http.post(f"{path}/resume")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "fine_tuning_job_id")
    assert (await api.http.post(f"{path}/cancel")).json()["status"] == "cancelled"
    assert (await api.http.post(f"{path}/pause")).status_code == 400
    assert (await api.http.post(f"{JOBS}/ftjob-nothing/pause")).status_code == 404


async def test_an_unknown_model_is_404_with_the_nearest(api: Api) -> None:
    response = await api.post(JOBS, model="tinny", training_file=await file_id(api))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert "tiny" in response.json()["error"]["message"]


async def test_a_file_for_something_else_is_refused(api: Api) -> None:
    other = api.services.registry.files.put("a.jsonl", "assistants", b"x").id
    response = await api.post(JOBS, model="tiny", training_file=other)
    assert response.json()["error"]["param"] == "training_file"
    assert "purpose 'assistants'" in response.json()["error"]["message"]


async def test_jobs_are_listed_newest_first_and_filtered(api: Api) -> None:
    a = await create(api, metadata={"team": "norte", "kind": "x"})
    b = await create(api)
    c = await create(api, metadata={"team": "norte"})

    async def ids(query: str) -> tuple[list[str], bool]:
        page = (await api.http.get(f"{JOBS}?{query}")).json()
        return [job["id"] for job in page["data"]], page["has_more"]

    assert await ids("") == ([c["id"], b["id"], a["id"]], False)
    assert await ids("limit=1") == ([c["id"]], True)
    assert await ids(f"after={c['id']}&limit=1") == ([b["id"]], True)
    assert await ids("metadata[team]=norte&limit=1") == ([c["id"]], True)
    assert await ids("metadata[team]=norte&metadata[kind]=x") == ([a["id"]], False)
    assert await ids("metadata=null") == ([b["id"]], False)
    assert (await api.http.get(f"{JOBS}?limit=x")).status_code == 400
    unknown = await api.http.get(f"{JOBS}?after=ftjob-nothing")
    assert (unknown.status_code, error_of(unknown)["param"]) == (404, "after")


async def test_events_and_checkpoints_have_pages(api: Api) -> None:
    job = await create(api)
    await api.http.post(f"{JOBS}/{job['id']}/cancel")
    store = api.services.jobs.store
    for number in range(3):
        store.add_event(job["id"], f"event {number}", type="metrics", data={"step": number})
        store.add_checkpoint(
            job["id"], number, f"ft:x:ckpt-step-{number}", {"train_loss": 1.5, "valid_loss": 2.5}
        )
    page = (await api.http.get(f"{JOBS}/{job['id']}/events?limit=2")).json()
    assert [event["message"] for event in page["data"]] == ["event 2", "event 1"]
    assert page["has_more"]
    assert page["data"][0]["object"] == "fine_tuning.job.event"
    rest = (await api.http.get(f"{JOBS}/{job['id']}/events?after={page['data'][-1]['id']}")).json()
    assert rest["data"][0]["message"] == "event 0"
    assert not rest["has_more"]

    points = (await api.http.get(f"{JOBS}/{job['id']}/checkpoints?limit=2")).json()
    assert [point["step_number"] for point in points["data"]] == [2, 1]
    assert points["has_more"]
    assert points["last_id"] == points["data"][-1]["id"]
    assert points["data"][0]["metrics"] == {
        "step": 2,
        "train_loss": 1.5,
        "full_valid_loss": 2.5,
        "valid_loss": 2.5,
    }


async def test_a_failed_job_shows_its_error(api: Api) -> None:
    job = await create(api)
    await api.http.post(f"{JOBS}/{job['id']}/cancel")
    api.services.jobs.store.update(
        job["id"], status="failed", error=JobError("invalid_training_file", "line 1: no", "training_file")
    )
    shown = (await api.http.get(f"{JOBS}/{job['id']}")).json()
    assert shown["error"] == {
        "code": "invalid_training_file",
        "message": "line 1: no",
        "param": "training_file",
    }


@pytest.mark.parametrize("path", ["", "/events", "/checkpoints"])
async def test_an_unknown_job_is_404(api: Api, path: str) -> None:
    response = await api.http.get(f"{JOBS}/ftjob-nothing{path}")
    assert response.status_code == 404
