"""A small server with the documented routes, on a real socket: what the commands talk to in these tests."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]
ENDED = ("succeeded", "failed", "cancelled")


def error(status: int, message: str, *, param: str | None = None, code: str | None = None) -> JSONResponse:
    body = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": body}, status)


def event(number: int, message: str, data: Json | None = None, level: str = "info") -> Json:
    kind = "metrics" if data is not None and "step" in data else "message"
    return {
        "object": "fine_tuning.job.event",
        "id": f"ft-event-{number}",
        "created_at": 1700000000 + number,
        "level": level,
        "message": message,
        "type": kind,
        "data": data or {},
    }


class FakeServer:
    """Scripted answers, and everything that was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str, Any]] = []
        self.residents: list[Json] = []  # in memory, as `ps` lists them
        self.models: dict[str, Json] = {
            "nano": {"id": "nano", "object": "model", "created": int(time.time()), "owned_by": "local"},
        }
        self.answer = ["¿Mañana", " o", " el año", " que viene?", "\u2028Cuesta", " 3 €."]
        self.reply: Callable[[Json], str] = lambda body: "".join(self.answer)
        self.stream_error: Json | None = None
        self.pause_s = 0.0
        self.jobs: dict[str, Json] = {}
        self.events: dict[str, list[Json]] = {}
        self.script: list[list[Json]] = []  # events that each look at the job adds, oldest first
        self.outcome: Json = {"status": "succeeded", "fine_tuned_model": "ft:nano:local:poeta:1"}
        self.upload_error: JSONResponse | None = None
        self.uploads: list[bytes] = []

    def routes(self) -> list[Route]:
        return [
            Route("/health", self.health),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{name:path}", self.one_model, methods=["GET", "DELETE"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/files", self.files, methods=["POST"]),
            Route("/v1/fine_tuning/jobs", self.create_job, methods=["POST"]),
            Route("/v1/fine_tuning/jobs", self.list_jobs, methods=["GET"]),
            Route("/v1/fine_tuning/jobs/{job}", self.one_job),
            Route("/v1/fine_tuning/jobs/{job}/events", self.job_events),
            Route("/v1/fine_tuning/jobs/{job}/cancel", self.cancel_job, methods=["POST"]),
            Route("/v1/fine_tuning/jobs/{job}/pause", self.pause_job, methods=["POST"]),
            Route("/v1/fine_tuning/jobs/{job}/resume", self.resume_job, methods=["POST"]),
            Route("/v1/load_lora_adapter", self.load_adapter, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self.unload_adapter, methods=["POST"]),
            Route("/llamaleon/bases", self.add_base, methods=["POST"]),
            Route("/llamaleon/bases/{name:path}", self.remove_base, methods=["DELETE"]),
            Route("/llamaleon/models", self.create_model, methods=["POST"]),
            Route("/llamaleon/copy", self.copy_model, methods=["POST"]),
            Route("/llamaleon/models/{name:path}", self.show),
            Route("/llamaleon/ps", self.ps),
            Route("/llamaleon/adapters/{name:path}/pin", self.pin, methods=["POST"]),
            Route("/llamaleon/adapters/{name:path}/unpin", self.unpin, methods=["POST"]),
        ]

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": list(self.models.values())})

    async def one_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.requests.append((request.method, "model", name))
        if name not in self.models:
            message = f"The model `{name}` does not exist. Nearest names: nano."
            return error(404, message, param="model", code="model_not_found")
        return JSONResponse(self.models.pop(name) if request.method == "DELETE" else self.models[name])

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(("POST", "chat", body))
        if body["model"] not in self.models:
            message = f"The model `{body['model']}` does not exist. Nearest names: nano."
            return error(404, message, param="model", code="model_not_found")
        if not body.get("stream"):
            content = self.reply(body)
            return JSONResponse({"choices": [{"message": {"role": "assistant", "content": content}}]})
        return StreamingResponse(self._chunks(), media_type="text/event-stream")

    async def _chunks(self) -> AsyncIterator[bytes]:
        for piece in self.answer:
            chunk = {"choices": [{"index": 0, "delta": {"content": piece}}]}
            yield f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n".encode()
            await asyncio.sleep(self.pause_s)
        if self.stream_error is not None:
            yield f"data: {json.dumps({'error': self.stream_error})}\r\n\r\n".encode()
            return
        yield b": a comment\r\n\r\ndata: [DONE]\r\n\r\n"

    async def files(self, request: Request) -> Response:
        if self.upload_error is not None:
            return self.upload_error
        async with request.form() as form:
            file = form["file"]
            assert not isinstance(file, str)
            self.uploads.append(await file.read())
            self.requests.append(("POST", "file", (file.filename, form["purpose"])))
        return JSONResponse({"id": f"file-{len(self.uploads)}", "object": "file", "status": "processed"})

    async def create_job(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(("POST", "job", body))
        job = {
            "id": f"ftjob-{len(self.jobs) + 1}",
            "object": "fine_tuning.job",
            "model": body["model"],
            "status": "validating_files",
            "fine_tuned_model": None,
            "error": None,
            "created_at": int(time.time()),
        }
        self.jobs[job["id"]] = job
        self.events[job["id"]] = []
        return JSONResponse(job)

    async def list_jobs(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": list(self.jobs.values()), "has_more": False})

    async def one_job(self, request: Request) -> Response:
        name = request.path_params["job"]
        if name not in self.jobs:
            return error(404, f"No job `{name}`.", code="not_found")
        job = self.jobs[name]
        if job["status"] not in ENDED:
            job["status"] = "running"
            if self.script:
                self.events[name] += self.script.pop(0)
            else:
                job.update(self.outcome)
        return JSONResponse(job)

    async def job_events(self, request: Request) -> Response:
        newest_first = self.events[request.path_params["job"]][::-1]
        after = request.query_params.get("after")
        start = 0
        if after is not None:
            start = [item["id"] for item in newest_first].index(after) + 1
        page = newest_first[
            start : start + 3
        ]  # a short page, whatever was asked: clients must follow `has_more`
        return JSONResponse(
            {"object": "list", "data": page, "has_more": start + len(page) < len(newest_first)}
        )

    async def cancel_job(self, request: Request) -> Response:
        job = self.jobs[request.path_params["job"]]
        job["status"] = "cancelled"
        return JSONResponse(job)

    async def pause_job(self, request: Request) -> Response:
        job = self.jobs[request.path_params["job"]]
        job["status"] = "paused"
        return JSONResponse(job)

    async def resume_job(self, request: Request) -> Response:
        job = self.jobs[request.path_params["job"]]
        if job["status"] != "paused":
            return error(400, f"Job {job['id']} is not paused: it is {job['status']}.")
        job["status"] = "queued"
        return JSONResponse(job)

    async def load_adapter(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(("POST", "adapter", body))
        return PlainTextResponse(f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

    async def unload_adapter(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        self.requests.append(("POST", "unload", name))
        if name not in self.models:
            return error(404, f"The lora adapter '{name}' cannot be found.", param="lora_name")
        del self.models[name]
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def add_base(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(("POST", "base", body))
        name = body.get("name") or body["path"].rsplit("/", 1)[-1].removesuffix(".gguf")
        self.models[name] = {"id": name, "object": "model", "created": 1700000000}
        return JSONResponse({"name": name, "path": body["path"]})

    async def remove_base(self, request: Request) -> Response:
        self.requests.append(("DELETE", "base", request.path_params["name"]))
        del self.models[request.path_params["name"]]
        return JSONResponse({"deleted": True})

    async def create_model(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(("POST", "create", body))
        if "FOO" in body["modelfile"]:
            return error(400, "Modelfile, line 2: FOO is no instruction.", param="modelfile")
        return self._made(body["name"], ["PARAMETER numa has no effect here."])

    async def copy_model(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(("POST", "copy", body))
        return self._made(body["destination"], [])

    def _made(self, name: str, notes: list[str]) -> Response:
        name = name.removesuffix(":latest")
        self.models[name] = {"id": name, "kind": "made", "parent": "nano", "created": 1700000000}
        return JSONResponse({"name": name, "kind": "made", "base": "nano", "notes": notes})

    async def show(self, request: Request) -> Response:
        name = request.path_params["name"]
        if request.query_params.get("modelfile") == "1":
            return JSONResponse({"name": name, "modelfile": "FROM nano\nSYSTEM ¡Hola!\n"})
        return JSONResponse(
            {
                "name": name,
                "base": None,
                "manifest": {
                    "rank": 16,
                    "base": {"vocab_size": 512},
                    "target_tensors": ["blk.0.attn_q.weight", "blk.0.attn_v.weight"],
                    "training": {"n_epochs": 3, "learning_rate": 0.002000001},
                },
                "versions": [
                    {
                        "version": 1,
                        "state": "deployed",
                        "reason": None,
                        "pinned": True,
                        "path": "/h/señor.gguf",
                    }
                ],
            }
        )

    async def ps(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": self.residents})

    async def pin(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.requests.append(("POST", "pin", name))
        return JSONResponse({"id": name, "object": "adapter", "pinned": True})

    async def unpin(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name == "nada":
            return error(404, "`nada` is not pinned.", param="model", code="not_found")
        self.requests.append(("POST", "unpin", name))
        return JSONResponse({"id": name, "object": "adapter", "pinned": False})


@contextmanager
def running(fake: FakeServer | None = None) -> Iterator[FakeServer]:
    """The fake, listening on a free port of this machine until the block ends."""
    fake = fake or FakeServer()
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=fake.routes()), port=0, log_level="error", ws="none", lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        fake.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield fake
    finally:
        server.should_exit = True
        thread.join()
