"""`AsyncLlamaleon`: the same for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from llamaleon_clients.api import reachable
from llamaleon_clients.measure import CONCURRENCY, MAX_TOKENS
from llamaleon_clients.python import calls, transport
from llamaleon_clients.python.calls import Call
from llamaleon_clients.python.records import Adapter, Event, Job, Json, Model, Resident, Score

Value = TypeVar("Value")
POLL_S = 0.4


class AsyncLlamaleon:
    """One server.

    Raises, in every call: ServerRefused with the server's words, status, `code` and `param`;
    ServerUnreachable if nobody answers. Both are `llamaleon_clients.errors.ClientError`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        transport_: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        arguments = transport.settings(base_url, api_key, timeout_s)
        self.url: str = arguments["base_url"]
        self._http = httpx.AsyncClient(**arguments, transport=transport_)
        self.models = Models(self)
        self.adapters = Adapters(self)
        self.training = Training(self)

    @property
    def openai_url(self) -> str:
        """The `base_url` of OpenAI's clients."""
        return f"{self.url}/v1"

    async def evaluate(self, model: str, rows: transport.Rows, *, max_tokens: int = MAX_TOKENS) -> Score:
        """Greedy answers to rows of OpenAI's chat format whose last message is the wanted answer.

        Raises: BadInput for a line that is no such row.
        """
        examples = transport.examples_of(rows)
        gate = asyncio.Semaphore(CONCURRENCY)

        async def answer(messages: list[Json]) -> str:
            async with gate:
                return await self.send(calls.greedy(model, messages, max_tokens))

        answering = [asyncio.create_task(answer(one.messages)) for one in examples]
        try:
            return transport.scored(examples, await asyncio.gather(*answering))
        finally:
            for task in answering:
                task.cancel()  # once one has failed, nobody waits for the others

    async def send(self, call: Call[Value]) -> Value:
        with reachable(self.url):
            response = await self._http.request(call.method, call.path, json=call.json, params=call.params)
        return transport.value_of(call, self.url, response)

    async def upload(self, path: str | Path) -> str:
        """The id of the uploaded file."""
        arguments = transport.upload_arguments(path)
        with reachable(self.url):
            response = await self._http.post("/v1/files", **arguments)
        return str(transport.checked(self.url, response)["id"])

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncLlamaleon:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Models:
    """Base models; `list` has the adapters too, as `/v1/models`."""

    def __init__(self, client: AsyncLlamaleon) -> None:
        self._client = client

    async def list(self) -> list[Model]:
        return await self._client.send(calls.models())

    async def retrieve(self, name: str) -> Model:
        return await self._client.send(calls.model(name))

    async def add(self, path: str | Path, name: str | None = None) -> str:
        """Register a GGUF file of the server's machine, in place; the name it now has."""
        return await self._client.send(calls.add_base(Path(path), name))

    async def remove(self, name: str) -> None:
        """Forget the name; the file stays."""
        await self._client.send(calls.remove_base(name))

    async def resident(self) -> Sequence[Resident]:
        """What is in memory."""
        return await self._client.send(calls.residents())

    async def unload(self, name: str) -> None:
        """Free its memory now."""
        await self._client.send(calls.unload(name))


class Adapters:
    def __init__(self, client: AsyncLlamaleon) -> None:
        self._client = client

    async def list(self) -> list[str]:
        """Names to ask for, `BASE+ADAPTER`."""
        return await self._client.send(calls.adapters())

    async def retrieve(self, name: str) -> Adapter:
        return await self._client.send(calls.adapter(name))

    async def load(
        self, name: str, path: str | Path, *, base: str | None = None, replace: bool = False
    ) -> None:
        """Register a GGUF LoRA file, or a PEFT directory, of the server's machine."""
        await self._client.send(calls.load_adapter(name, Path(path), base, replace))

    async def delete(self, name: str) -> None:
        """Every version of it."""
        await self._client.send(calls.delete_adapter(name))

    async def pin(self, name: str) -> None:
        """Keep it in the bank."""
        await self._client.send(calls.pin(name))

    async def unpin(self, name: str) -> None:
        await self._client.send(calls.unpin(name))


class Training:
    def __init__(self, client: AsyncLlamaleon) -> None:
        self._client = client

    async def create(
        self,
        data: str | Path,
        *,
        base: str,
        name: str,
        validation: str | Path | None = None,
        seed: int | None = None,
        **hyperparameters: Any,
    ) -> Job:
        """Upload the rows and start a job: `n_epochs`, `learning_rate`, `lora_r`, ... as the API names them.

        Raises: BadInput if a file cannot be read.
        """
        validation_file = None if validation is None else await self._client.upload(validation)
        body = calls.job_body(
            base=base,
            name=name,
            training_file=await self._client.upload(data),
            validation_file=validation_file,
            seed=seed,
            hyperparameters=hyperparameters,
        )
        return await self._client.send(calls.create_job(body))

    async def retrieve(self, job_id: str) -> Job:
        return await self._client.send(calls.job(job_id))

    async def list(self, limit: int = 20) -> list[Job]:
        return await self._client.send(calls.jobs(limit))

    async def cancel(self, job_id: str) -> Job:
        return await self._client.send(calls.cancel_job(job_id))

    async def events(self, job_id: str) -> AsyncGenerator[Event, None]:
        """All events, oldest first, then new ones as they come, until the job has ended."""
        last: str | None = None
        while True:
            ended = (await self.retrieve(job_id)).ended  # before the events: once it has ended, all are there
            for event in await self._since(job_id, last):
                last = event.id
                yield event
            if ended:
                return
            await asyncio.sleep(POLL_S)

    async def wait(self, job_id: str) -> Job:
        """Until it has ended, well or not."""
        while not (job := await self.retrieve(job_id)).ended:
            await asyncio.sleep(POLL_S)
        return job

    async def _since(self, job_id: str, last: str | None) -> Sequence[Event]:
        found: list[Event] = []
        after: str | None = None
        while True:
            page = await self._client.send(calls.events(job_id, after))
            for event in page.events:
                if event.id == last:
                    return found[::-1]
                found.append(event)
            if not page.has_more or not page.events:
                return found[::-1]
            after = page.events[-1].id
