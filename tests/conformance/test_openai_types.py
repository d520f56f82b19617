"""Every answer on OpenAI's routes is what the `openai` package's types say, strictly: no type coerced.

The types are generated from OpenAI's published schema. What they leave open (extra fields) is ours: timings,
and what models and adapters say of themselves.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import pagination, types
from openai.types import chat, fine_tuning, responses
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import BaseModel, TypeAdapter, ValidationError
from tests.api import CHATML, Api, events, running_api
from tests.unit.server.registry.small import write_base

from llamaleon_server.app import ROUTES
from llamaleon_server.registry.jobstore import JobCheckpoint, JobEvent
from llamaleon_server.testing import FakeEngines
from llamaleon_server.web.described import Described
from llamaleon_server.web.objects import checkpoint_object, event_object
from llamaleon_server.web.scopes import names_of

OPENAI = (
    "/v1/chat",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/files",
    "/v1/fine_tuning",
    "/v1/responses",
    "/v1/batches",
)
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
FILE = {"file": ("a.jsonl", b'{"custom_id": "1"}\n')}
JOB = "/v1/fine_tuning/jobs"


@pytest.fixture
async def tiny(tmp_path: Path) -> AsyncIterator[Api]:
    base = write_base(tmp_path / "tiny.gguf", template=CHATML)
    async with running_api(tmp_path / "home", base, engines=FakeEngines(context_tokens=4096)) as running:
        yield running


def described() -> list[Described]:
    return [route for route in ROUTES if isinstance(route, Described)]


def is_answered(route: Described) -> bool:
    return route.path.startswith(OPENAI) and route.status < 400


class Checked:
    """Which routes were asked, and what they answered, held against its type."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.seen: set[str] = set()

    async def ask(self, route: str, kind: Any, *, path: str | None = None, **options: Any) -> Any:
        method, template = route.split(" ")
        response = await self._api.http.request(method, path or template, **options)
        assert response.status_code == 200, (route, response.text)
        self.seen.add(route)
        if kind is not None:
            hold(response, kind, route)
        return response

    async def stream(self, route: str, kind: Any, **options: Any) -> None:
        method, template = route.split(" ")
        response = await self._api.http.request(method, template, **options)
        data = [one for one in events(response) if one != "[DONE]"]
        assert len(data) > 1
        adapter = TypeAdapter(kind)
        for one in data:
            adapter.validate_json(json.dumps(one), strict=True)


def hold(response: httpx.Response, kind: Any, what: str) -> None:
    try:
        TypeAdapter(kind).validate_json(response.content, strict=True)
    except ValidationError as error:
        raise AssertionError(f"{what}: {error}\n{response.text}") from error


def body(**more: Any) -> dict[str, Any]:
    return {"json": {"model": "tiny", **more}}


def said(**more: Any) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": "¿Qué tal?"}], **more)


class Deleted(BaseModel):
    """The package has one of these for each kind of object, all alike."""

    id: str
    object: str
    deleted: bool


async def test_every_answer(tiny: Api, tmp_path: Path) -> None:
    checked = Checked(tiny)
    await _chats(checked)
    await _models(checked)
    await _files(checked)
    await _stored(checked)
    await _fine_tuning(checked, tiny)
    await _responses(checked)
    await _batches(checked)
    await checked.ask("POST /v1/embeddings", types.CreateEmbeddingResponse, **body(input=["a", "b"]))
    wanted = {name for route in described() for name in names_of(route) if is_answered(route)}
    assert wanted - checked.seen - ELSEWHERE == set()


ELSEWHERE = {
    "DELETE /v1/models/{name}",  # of an adapter: tests/unit/server/web/test_models.py has one
    "POST /v1/chat/completions/input_tokens",  # llama-server's
    "GET /v1/fine_tuning/jobs/{job_id}/report",  # ours, a page
}


async def _chats(checked: Checked) -> None:
    route = "POST /v1/chat/completions"
    await checked.ask(route, chat.ChatCompletion, **said())
    await checked.ask(route, chat.ChatCompletion, **said(n=2, logprobs=True, top_logprobs=3, max_tokens=4))
    await checked.ask(route, chat.ChatCompletion, **said(tools=[TOOL]))
    await checked.stream(route, chat.ChatCompletionChunk, **said(stream=True, logprobs=True, top_logprobs=1))
    with_usage = said(stream=True, stream_options={"include_usage": True}, n=2)
    await checked.stream(route, chat.ChatCompletionChunk, **with_usage)
    route = "POST /v1/completions"
    await checked.ask(route, types.Completion, **body(prompt="Hola"))
    await checked.ask(route, types.Completion, **body(prompt=["a", "b"], logprobs=2, n=2))
    # Not both: the first token of an echo has no probability, for which OpenAI sends a null its types lack.
    await checked.ask(route, types.Completion, **body(prompt="a", echo=True))


async def _models(checked: Checked) -> None:
    await checked.ask("GET /v1/models", pagination.SyncPage[types.Model])
    await checked.ask("GET /v1/models/{name}", types.Model, path="/v1/models/tiny")


async def _files(checked: Checked) -> None:
    purpose = {"purpose": "fine-tune"}
    made = await checked.ask("POST /v1/files", types.FileObject, files=FILE, data=purpose)
    path = f"/v1/files/{made.json()['id']}"
    await checked.ask("GET /v1/files", pagination.SyncCursorPage[types.FileObject])
    await checked.ask("GET /v1/files/{file_id}", types.FileObject, path=path)
    await checked.ask("GET /v1/files/{file_id}/content", None, path=f"{path}/content")
    await checked.ask("DELETE /v1/files/{file_id}", types.FileDeleted, path=path)


async def _stored(checked: Checked) -> None:
    made = await checked.ask("POST /v1/chat/completions", chat.ChatCompletion, **said(store=True))
    route, path = "/v1/chat/completions/{completion_id}", f"/v1/chat/completions/{made.json()['id']}"
    await checked.ask("GET /v1/chat/completions", pagination.SyncCursorPage[chat.ChatCompletion])
    await checked.ask(f"GET {route}", chat.ChatCompletion, path=path)
    # The type knows messages of the assistant alone, although OpenAI's own example lists the user's.
    asked = await checked.ask(f"GET {route}/messages", None, path=f"{path}/messages")
    said_it = [one | {"role": "assistant"} for one in asked.json()["data"]]
    TypeAdapter(list[chat.ChatCompletionStoreMessage]).validate_python(said_it, strict=True)
    await checked.ask(f"POST {route}", chat.ChatCompletion, path=path, json={"metadata": {"a": "b"}})
    await checked.ask(f"DELETE {route}", chat.ChatCompletionDeleted, path=path)


async def _fine_tuning(checked: Checked, api: Api) -> None:
    rows = b"".join(b'{"prompt": "a", "completion": "b"}\n' for _ in range(12))
    upload = await api.http.post(
        "/v1/files", files={"file": ("a.jsonl", rows)}, data={"purpose": "fine-tune"}
    )
    asked = body(training_file=upload.json()["id"], method={"type": "supervised"}, metadata={"a": "b"})
    made = await checked.ask(f"POST {JOB}", fine_tuning.FineTuningJob, **asked)
    path = f"{JOB}/{made.json()['id']}"
    # "paused" is no status of the types, although OpenAI's own example of this route answers with it.
    paused = await checked.ask(f"POST {JOB}/{{job_id}}/pause", None, path=f"{path}/pause")
    fine_tuning.FineTuningJob.model_validate(paused.json() | {"status": "queued"}, strict=True)
    await checked.ask(f"POST {JOB}/{{job_id}}/resume", fine_tuning.FineTuningJob, path=f"{path}/resume")
    # No trainer is to start: the job ends before its turn.
    await checked.ask(f"POST {JOB}/{{job_id}}/cancel", fine_tuning.FineTuningJob, path=f"{path}/cancel")
    await checked.ask(f"GET {JOB}", pagination.SyncCursorPage[fine_tuning.FineTuningJob])
    await checked.ask(f"GET {JOB}/{{job_id}}", fine_tuning.FineTuningJob, path=path)
    listed = pagination.SyncCursorPage[fine_tuning.FineTuningJobEvent]
    await checked.ask(f"GET {JOB}/{{job_id}}/events", listed, path=f"{path}/events")
    points = pagination.SyncCursorPage[FineTuningJobCheckpoint]
    await checked.ask(f"GET {JOB}/{{job_id}}/checkpoints", points, path=f"{path}/checkpoints")


def test_events_and_checkpoints_of_a_job() -> None:
    event = JobEvent(id="e", created_at=1, level="info", type="metrics", message="m", data={"step": 1})
    fine_tuning.FineTuningJobEvent.model_validate(event_object(event), strict=True)
    metrics = {"train_loss": 1.0, "valid_loss": 2.0, "valid_accuracy": 0.5}
    point = JobCheckpoint(id="c", job="j", step=3, ft_name="ft:x", metrics=metrics, created_at=1)
    FineTuningJobCheckpoint.model_validate(checkpoint_object(point), strict=True)


async def _responses(checked: Checked) -> None:
    if not any(route.path == "/v1/responses" for route in ROUTES):
        return
    route = "/v1/responses"
    made = await checked.ask(f"POST {route}", responses.Response, **body(input="Hola"))
    path = f"{route}/{made.json()['id']}"
    await checked.stream(f"POST {route}", responses.ResponseStreamEvent, **body(input="Hola", stream=True))
    await checked.ask(f"GET {route}/{{response_id}}", responses.Response, path=path)
    items = responses.ResponseItemList
    await checked.ask(f"GET {route}/{{response_id}}/input_items", items, path=f"{path}/input_items")
    await checked.ask(f"POST {route}/input_tokens", responses.InputTokenCountResponse, **body(input="Hola"))
    later = await checked.ask(f"POST {route}", responses.Response, **body(input="Hola", background=True))
    ending = f"{route}/{later.json()['id']}/cancel"
    await checked.ask(f"POST {route}/{{response_id}}/cancel", responses.Response, path=ending)
    await checked.ask(f"DELETE {route}/{{response_id}}", Deleted, path=path)


async def _batches(checked: Checked) -> None:
    if not any(route.path == "/v1/batches" for route in ROUTES):
        return
    one = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": said()["json"]}
    file = {"file": ("a.jsonl", json.dumps(one).encode())}
    upload = await checked.ask("POST /v1/files", types.FileObject, files=file, data={"purpose": "batch"})
    asked = {
        "input_file_id": upload.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    made = await checked.ask("POST /v1/batches", types.Batch, json=asked)
    path = f"/v1/batches/{made.json()['id']}"
    await checked.ask("GET /v1/batches", pagination.SyncCursorPage[types.Batch])
    await checked.ask("GET /v1/batches/{batch_id}", types.Batch, path=path)
    await checked.ask("POST /v1/batches/{batch_id}/cancel", types.Batch, path=f"{path}/cancel")
