"""Responses in the background: polled, watched, cancelled, and told what became of them after a restart."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response
from tests.api import CHATML, Api, error_of, running_api
from tests.unit.server.registry.small import write_base
from tests.unit.server.web.responses import respond, streamed, whole

from llamaleon_server.errors import StorageFull
from llamaleon_server.registry.responses import KEPT_S

ANSWER = "Hola, ¿qué tal?"


async def until_ended(api: Api, name: str) -> Response:
    async with asyncio.timeout(30):
        while True:
            found = whole(await api.http.get(f"/v1/responses/{name}"))
            if found.status not in {"queued", "in_progress"}:
                return found
            await asyncio.sleep(0.01)


async def begun(api: Api, **more: Any) -> str:
    """One that has said something and waits at the engine's gate."""
    await api.complete("warm", max_tokens=1)
    api.engines.last.step_s = 0.1  # more than a second for all of it, however busy this machine is
    answer = whole(await respond(api, background=True, **more))
    assert answer.status == "queued"
    while (running := api.services.responses.find(answer.id)) and running.response.status == "queued":
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.25)
    api.engines.last.gate.clear()
    api.engines.last.step_s = 0.01
    return answer.id


async def test_it_is_queued_then_runs_then_is_there(api: Api) -> None:
    name = await begun(api)
    running = whole(await api.http.get(f"/v1/responses/{name}"))
    assert (running.status, running.background) == ("in_progress", True)
    refused = error_of(await respond(api, "¿Y?", previous_response_id=name))
    assert refused["param"] == "previous_response_id"
    api.engines.last.gate.set()
    ended = await until_ended(api, name)
    assert (ended.status, ended.output_text) == ("completed", ANSWER)
    again = whole(await respond(api, "¿Y?", previous_response_id=name))
    assert again.output_text == ANSWER
    refused = error_of(await api.http.get(f"/v1/responses/{name}?stream=true"))
    assert refused["param"] == "stream"


async def test_cancelling_ends_the_work_and_keeps_what_was_said(api: Api) -> None:
    name = await begun(api)
    cancelled: Any = whole(await api.http.post(f"/v1/responses/{name}/cancel"))
    assert cancelled.status == "cancelled"
    assert 0 < len(cancelled.output_text) < len(ANSWER)
    assert cancelled.output[0].status == "incomplete"
    assert api.engines.last.running == 0
    assert whole(await api.http.get(f"/v1/responses/{name}")) == cancelled
    assert whole(await api.http.post(f"/v1/responses/{name}/cancel")) == cancelled
    foreground = whole(await _after(api))
    error = error_of(await api.http.post(f"/v1/responses/{foreground.id}/cancel"))
    assert error["param"] == "response_id"


async def _after(api: Api) -> Any:
    api.engines.last.gate.set()
    return await respond(api)


async def test_deleting_ends_the_work(api: Api) -> None:
    name = await begun(api)
    assert (await api.http.delete(f"/v1/responses/{name}")).json()["deleted"]
    assert api.engines.last.running == 0
    assert (await api.http.get(f"/v1/responses/{name}")).status_code == 404


async def test_a_failure_is_told_to_who_asks(api: Api) -> None:
    answer = whole(await respond(api, "x" * 300, background=True))
    failed = await until_ended(api, answer.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.code == "invalid_prompt"
    assert "context" in failed.error.message


async def test_its_stream_can_be_read_again_from_any_event(api: Api) -> None:
    events = streamed(await respond(api, background=True, stream=True))
    assert [event.type for event in events[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    name = events[0].response.id
    assert events[-1].response.output_text == ANSWER
    again = streamed(await api.http.get(f"/v1/responses/{name}?stream=true"))
    assert again == events
    rest = streamed(await api.http.get(f"/v1/responses/{name}?stream=true&starting_after=9"))
    assert rest == events[10:]
    for after, param in ((len(events) - 1, "starting_after"), ("x", "starting_after")):
        refused = await api.http.get(f"/v1/responses/{name}?stream=true&starting_after={after}")
        assert error_of(refused)["param"] == param


async def test_who_asks_for_more_than_comes_is_told_so_when_it_has_ended(api: Api) -> None:
    name = await begun(api)
    asking = asyncio.create_task(api.http.get(f"/v1/responses/{name}?stream=true&starting_after=9999"))
    await asyncio.sleep(0.02)
    api.engines.last.gate.set()
    refused = await asking
    assert refused.status_code == 400
    assert error_of(refused)["param"] == "starting_after"


async def test_it_is_over_for_others_once_that_is_recorded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads that it is completed continues from it at once."""
    store, may = api.services.registry.responses, threading.Event()
    finish = store.finish

    def slow(*args: Any) -> None:
        assert may.wait(30)
        finish(*args)

    monkeypatch.setattr(store, "finish", slow)
    name = await begun(api)
    watching = asyncio.create_task(api.http.get(f"/v1/responses/{name}?stream=true"))
    api.engines.last.gate.set()
    while api.engines.last.running:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert whole(await api.http.get(f"/v1/responses/{name}")).status == "in_progress"
    assert not watching.done()
    may.set()
    assert streamed(await watching)[-1].type == "response.completed"
    assert whole(await respond(api, "¿Y?", previous_response_id=name)).output_text == ANSWER


async def test_who_watches_does_not_wait_for_what_cannot_be_recorded(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("No space left.")

    name = await begun(api)
    monkeypatch.setattr(api.services.registry.responses, "finish", full)
    watching = asyncio.create_task(api.http.get(f"/v1/responses/{name}?stream=true"))
    await asyncio.sleep(0.02)
    api.engines.last.gate.set()
    async with asyncio.timeout(30):
        assert streamed(await watching)[-1].type == "response.completed"
    monkeypatch.undo()


async def test_several_may_watch_while_it_runs(api: Api) -> None:
    name = await begun(api, stream=False)
    watching = [
        asyncio.create_task(api.http.get(f"/v1/responses/{name}?stream=true&starting_after={after}"))
        for after in (-1 + 1, 2)
    ]
    await asyncio.sleep(0.02)
    api.engines.last.gate.set()
    first, second = [streamed(await one) for one in watching]
    assert first[-1].type == second[-1].type == "response.completed"
    assert first[2:] == second


async def test_an_orderly_stop_and_a_sudden_one_both_leave_a_reason(tmp_path: Path) -> None:
    tiny = write_base(tmp_path / "tiny.gguf", template=CHATML)
    async with running_api(tmp_path / "home", tiny) as api:
        stopped = await begun(api)
        sudden = whole(await respond(api, background=True)).id
        record = api.services.registry.responses.get(sudden)
    async with running_api(tmp_path / "home", tiny) as api:
        await api.http.get("/v1/models")
        found = whole(await api.http.get(f"/v1/responses/{stopped}"))
        assert found.status == "failed"
        assert found.error is not None
        assert "stopped while this response was running" in found.error.message
        assert found.output_text
        # As a killed server leaves it: the record still says that it runs.
        api.services.registry.responses.delete(sudden)
        api.services.registry.responses.add(record, [])
    async with running_api(tmp_path / "home", tiny) as api:
        await api.http.get("/v1/models")
        found = whole(await api.http.get(f"/v1/responses/{sudden}"))
        assert found.status == "failed"
        assert found.error is not None
        assert found.error.message == "The server stopped while this response was running."


async def test_old_ones_are_forgotten_unless_something_younger_continues_them(api: Api) -> None:
    first = whole(await respond(api))
    second = whole(await respond(api, previous_response_id=first.id))
    alone = whole(await respond(api))
    db = api.services.registry.db
    for name in (first.id, alone.id):
        db.execute("UPDATE responses SET created = created - ? WHERE id = ?", KEPT_S + 10, name)
    api.services.registry.responses.sweep()
    assert {row["id"] for row in db.rows("SELECT id FROM responses")} == {first.id, second.id}
    assert {row["owner"] for row in db.rows("SELECT owner FROM items")} == {first.id, second.id}
    db.execute("UPDATE responses SET created = created - ?", KEPT_S + 10)
    api.services.registry.responses.sweep()
    assert db.rows("SELECT id FROM responses") == db.rows("SELECT id FROM items") == []
