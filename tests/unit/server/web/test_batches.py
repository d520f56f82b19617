"""`/v1/batches` over the fake engine: files in, files out, and everything that can interrupt them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openai.types import Batch
from tests.api import CHATML, Api, error_of, running_api
from tests.unit.server.registry.small import write_base

from llamaleon_server.batches.run import Run
from llamaleon_server.engine.protocol import Generate
from llamaleon_server.testing import FakeEngines, Refusal

CHAT, TEXT, RESPONSES, EMBEDDINGS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
)
ANSWER = "Hola, ¿qué tal?"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": [{"role": "user", "content": "Hola"}]},
    TEXT: {"model": "tiny", "prompt": "Hola"},
    RESPONSES: {"model": "tiny", "input": "Hola"},
    EMBEDDINGS: {"model": "tiny", "input": "Hola"},
}


def line(name: str, url: str = CHAT, **body: Any) -> str:
    entry = {"custom_id": name, "method": "POST", "url": url, "body": {**BODIES[url], **body}}
    return json.dumps(entry, ensure_ascii=False)


async def upload(api: Api, text: str | bytes, purpose: str = "batch") -> str:
    response = await api.http.post(
        "/v1/files", files={"file": ("batch.jsonl", text)}, data={"purpose": purpose}
    )
    return str(response.json()["id"])


async def begin(api: Api, lines: list[str], endpoint: str = CHAT, **more: Any) -> Batch:
    name = await upload(api, "\n".join(lines))
    body = {"input_file_id": name, "endpoint": endpoint, "completion_window": "24h", **more}
    response = await api.post("/v1/batches", **body)
    assert response.status_code == 200, response.text
    return Batch.model_validate_json(response.text, strict=True)


async def get(api: Api, name: str) -> Batch:
    response = await api.http.get(f"/v1/batches/{name}")
    assert response.status_code == 200, response.text
    return Batch.model_validate_json(response.text, strict=True)


async def ended(api: Api, name: str) -> Batch:
    async with asyncio.timeout(30):
        while True:
            batch = await get(api, name)
            if batch.status in {"completed", "failed", "expired", "cancelled"}:
                return batch
            await asyncio.sleep(0.01)


async def entries(api: Api, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    assert (await api.http.get(f"/v1/files/{file}")).json()["purpose"] == "batch_output"
    content = await api.http.get(f"/v1/files/{file}/content")
    return [json.loads(text) for text in content.text.splitlines()]


async def until_running(api: Api, count: int) -> None:
    async with asyncio.timeout(30):
        while not api.engines.opened or api.engines.last.running < count:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("endpoint", [CHAT, TEXT, RESPONSES, EMBEDDINGS])
async def test_each_line_does_what_its_route_does(api: Api, endpoint: str) -> None:
    batch = await begin(api, [line("a", endpoint), "", line("b", endpoint, model="none")], endpoint)
    assert batch.status == "validating"
    done = await ended(api, batch.id)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 2, "completed": 1, "failed": 1}
    [good] = await entries(api, done.output_file_id)
    direct = await api.post(endpoint, **BODIES[endpoint])
    assert good["custom_id"] == "a"
    assert good["error"] is None
    assert good["response"]["status_code"] == 200
    assert good["response"]["request_id"].startswith("req_")
    assert _lasting(good["response"]["body"]) == _lasting(direct.json())
    [bad] = await entries(api, done.error_file_id)
    assert (bad["custom_id"], bad["error"], bad["response"]["status_code"]) == ("b", None, 404)
    assert bad["response"]["body"]["error"]["code"] == "model_not_found"
    usage = direct.json()["usage"]
    assert done.usage is not None
    assert done.usage.total_tokens == usage["total_tokens"]
    assert None not in {done.in_progress_at, done.finalizing_at, done.completed_at}
    assert done.model is None  # there were two


def _lasting(body: dict[str, Any]) -> Any:
    """Without what differs from one answer to the next."""
    if "data" in body:
        return body["data"]
    if "choices" in body:
        return body["choices"]
    return [item["content"] for item in body["output"]]


async def test_results_are_in_the_order_of_the_input_whoever_ends_first(api: Api) -> None:
    names = [f"n{number}" for number in range(30)]
    batch = await begin(
        api, [line(name, max_tokens=1 + number % 5) for number, name in enumerate(names)], metadata={"k": "v"}
    )
    done = await ended(api, batch.id)
    assert [entry["custom_id"] for entry in await entries(api, done.output_file_id)] == names
    assert (done.error_file_id, done.metadata, done.model) == (None, {"k": "v"}, "tiny")
    assert list((api.services.registry.home / "batches").iterdir()) == []


async def test_few_run_at_once_and_who_waits_for_an_answer_gets_it(api: Api) -> None:
    await api.complete("warm", max_tokens=1)
    api.engines.last.gate.clear()
    batches = [await begin(api, [line(f"{batch}-{n}") for n in range(20)]) for batch in range(3)]
    await until_running(api, 4)
    await asyncio.sleep(0.05)
    assert api.engines.last.running == 4  # of 60
    waiting = asyncio.create_task(api.chat())
    await until_running(api, 5)
    api.engines.last.gate.set()
    assert (await asyncio.wait_for(waiting, 1)).status_code == 200
    assert (await get(api, batches[-1].id)).status == "in_progress"
    for batch in batches:
        assert (await ended(api, batch.id)).status == "completed"


async def test_cancelling_keeps_what_was_done_and_names_the_rest(api: Api) -> None:
    await api.complete("warm", max_tokens=1)
    engine = api.engines.last
    api.engines.answer = lambda message: "lento " * 1000 if "lento" in str(message.prompt) else ANSWER
    slow: Any = {"messages": [{"role": "user", "content": "lento"}]}
    engine.step_s = 0.005
    batch = await begin(api, [line("a"), line("b"), *(line(f"c{n}", **slow) for n in range(6))])
    async with asyncio.timeout(30):
        while (counts := (await get(api, batch.id)).request_counts) is None or counts.completed < 2:
            await asyncio.sleep(0.005)
    response = await api.http.post(f"/v1/batches/{batch.id}/cancel")
    cancelling = Batch.model_validate_json(response.text, strict=True)
    assert cancelling.status == "cancelling"
    async with asyncio.timeout(30):
        while engine.running:
            await asyncio.sleep(0.002)
    done = await ended(api, batch.id)
    assert done.status == "cancelled"
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 8, "completed": 2, "failed": 0}
    assert [entry["custom_id"] for entry in await entries(api, done.output_file_id)] == ["a", "b"]
    rest = await entries(api, done.error_file_id)
    assert [entry["custom_id"] for entry in rest] == [f"c{n}" for n in range(6)]
    assert {entry["error"]["code"] for entry in rest} == {"batch_cancelled"}
    assert None not in {done.cancelling_at, done.cancelled_at}
    again = await api.http.post(f"/v1/batches/{batch.id}/cancel")
    assert (again.status_code, error_of(again)["param"]) == (400, "batch_id")


async def test_what_is_not_run_in_time_expires(api: Api) -> None:
    await api.complete("warm", max_tokens=1)
    api.engines.last.gate.clear()
    batch = await begin(api, [line("a"), line("b")])
    await until_running(api, 2)
    await api.services.batches.close()
    api.services.registry.batches.update(batch.id, expires_at=batch.created_at - 1)
    api.services.batches.start()
    done = await ended(api, batch.id)
    assert done.status == "expired"
    assert done.expired_at is not None
    rest = await entries(api, done.error_file_id)
    assert [entry["error"]["code"] for entry in rest] == ["batch_expired"] * 2


async def test_a_full_queue_is_tried_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter(range(2))

    def answer(message: Generate) -> str:
        if next(refusals, None) is not None:
            raise Refusal("queue_full", "Too many wait.")
        return ANSWER

    monkeypatch.setattr("llamaleon_server.batches.run.FIRST_WAIT_S", 0.01)
    api.engines.answer = answer
    done = await ended(api, (await begin(api, [line("a")])).id)
    assert done.request_counts is not None
    assert done.request_counts.completed == 1


async def test_after_a_stop_what_was_done_stays_done_and_the_rest_is_run(tmp_path: Path) -> None:
    tiny = write_base(tmp_path / "tiny.gguf", template=CHATML)
    ran: list[str] = []

    def answer(message: Generate) -> str:
        ran.append(str(message.prompt).split("«")[1].split("»")[0])
        return ANSWER

    lines = [line(f"n{n}", messages=[{"role": "user", "content": f"«n{n}»"}]) for n in range(12)]
    async with running_api(tmp_path / "home", tiny, engines=FakeEngines(answer)) as api:
        batch = await begin(api, lines)
        async with asyncio.timeout(30):
            while (counts := (await get(api, batch.id)).request_counts) is None or counts.completed < 5:
                await asyncio.sleep(0)
        await api.services.batches.close()
        results = api.services.registry.batches.results(batch.id)
        done = [
            msgspec.json.decode(text)["result"]["custom_id"] for text in results.read_bytes().splitlines()
        ]
        assert 5 <= len(done) < 12
        with results.open("ab") as file:
            file.write(b'{"line":12,"result":{"id":"torn')  # as a kill in the middle of writing leaves it
    ran.clear()
    async with running_api(tmp_path / "home", tiny, engines=FakeEngines(answer)) as api:
        await api.http.get("/v1/models")
        ended_batch = await ended(api, batch.id)
        assert ended_batch.request_counts is not None
        assert ended_batch.request_counts.completed == 12
        assert sorted(ran) == sorted({f"n{n}" for n in range(12)} - set(done))
        found = await entries(api, ended_batch.output_file_id)
        assert [entry["custom_id"] for entry in found] == [f"n{n}" for n in range(12)]


async def half_done(api: Api) -> Batch:
    batch = await begin(api, [line(f"n{number}") for number in range(40)])
    async with asyncio.timeout(30):
        while (counts := (await get(api, batch.id)).request_counts) is None or counts.completed < 5:
            await asyncio.sleep(0)
    return batch


async def test_cancelling_twice_at_once_is_cancelling_once(api: Api) -> None:
    batch = await half_done(api)
    both = await asyncio.gather(*(api.http.post(f"/v1/batches/{batch.id}/cancel") for _ in range(2)))
    assert [response.json()["status"] for response in both] == ["cancelling"] * 2
    assert len([task for task in asyncio.all_tasks() if task.get_name() == batch.id]) == 1
    done = await ended(api, batch.id)
    assert done.status == "cancelled"
    assert done.request_counts is not None
    assert len(await entries(api, done.output_file_id)) == done.request_counts.completed


async def test_cancelled_without_its_input_a_batch_keeps_what_was_done(api: Api) -> None:
    batch = await half_done(api)
    await api.http.delete(f"/v1/files/{batch.input_file_id}")
    await api.http.post(f"/v1/batches/{batch.id}/cancel")
    done = await ended(api, batch.id)
    assert done.status == "cancelled"
    assert len(await entries(api, done.output_file_id)) >= 5


async def test_without_its_input_a_batch_fails_and_keeps_what_was_done(api: Api) -> None:
    batch = await half_done(api)
    await api.services.batches.close()
    await api.http.delete(f"/v1/files/{batch.input_file_id}")
    api.services.batches.start()
    done = await ended(api, batch.id)
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    assert [error.code for error in done.errors.data] == ["not_found"]
    assert done.request_counts is not None
    assert 5 <= done.request_counts.completed < 40
    assert len(await entries(api, done.output_file_id)) == done.request_counts.completed


async def test_a_mistake_of_ours_ends_the_batch(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(self: Run, record: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Run, "_finalize", mistaken)
    batch = await ended(api, (await begin(api, [line("a")])).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [error.code for error in batch.errors.data] == ["server_error"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [("empty_file", None, None)]),
        ("{no\n" + line("a"), [("invalid_json_line", 1, None)]),
        (b"\xff\xfe", [("invalid_json_line", 1, None)]),
        ('{"custom_id": "a"}', [("invalid_request", 1, None)]),
        (line("a") + "\n\n" + line("a"), [("duplicate_custom_id", 3, "custom_id")]),
        (line("a", TEXT), [("mismatched_url", 1, "url")]),
        (line("a").replace("POST", "GET"), [("invalid_method", 1, "method")]),
        (line("a", stream=True), [("invalid_request", 1, "body.stream")]),
    ],
)
async def test_a_file_with_mistakes_fails_by_line(
    api: Api, text: str | bytes, expected: list[tuple[str, int | None, str | None]]
) -> None:
    name = await upload(api, text)
    response = await api.post("/v1/batches", input_file_id=name, endpoint=CHAT, completion_window="24h")
    done = await ended(api, response.json()["id"])
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    assert [(error.code, error.line, error.param) for error in done.errors.data] == expected
    assert api.engines.opened == []


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"metadata": {"k": 1}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ],
)
async def test_what_cannot_be_a_batch_is_refused(api: Api, more: dict[str, Any], param: str) -> None:
    name = await upload(api, line("a"))
    body = {"input_file_id": name, "endpoint": CHAT, "completion_window": "24h", **more}
    response = await api.post("/v1/batches", **body)
    assert (response.status_code, error_of(response)["param"]) == (400, param)


async def test_a_file_of_another_purpose_is_refused(api: Api) -> None:
    name = await upload(api, line("a"), purpose="user_data")
    body = {"input_file_id": name, "endpoint": CHAT, "completion_window": "24h"}
    assert error_of(await api.post("/v1/batches", **body))["param"] == "input_file_id"


async def test_batches_are_listed_newest_first(api: Api) -> None:
    made = [
        (await begin(api, [line("a")], output_expires_after={"anchor": "created_at", "seconds": 3600})).id
        for _ in range(3)
    ]
    page = (await api.http.get("/v1/batches?limit=2")).json()
    assert ([batch["id"] for batch in page["data"]], page["has_more"]) == (made[:0:-1], True)
    rest = (await api.http.get(f"/v1/batches?after={page['last_id']}")).json()
    assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == (made[:1], False)
    for path in ("/v1/batches/batch_none", "/v1/batches?after=batch_none"):
        assert (await api.http.get(path)).status_code == 404
    done = await ended(api, made[0])
    assert (await api.http.get(f"/v1/files/{done.output_file_id}")).json()["expires_at"] is not None
