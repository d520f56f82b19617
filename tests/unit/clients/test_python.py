"""The Python client, synchronous and asynchronous, against the documented routes."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from tests.unit.clients.fake_server import FakeServer, event, running

from llamaleon_clients.errors import BadInput, ServerRefused, ServerUnreachable
from llamaleon_clients.measure import Example
from llamaleon_clients.python import AsyncLlamaleon, Llamaleon, asynchronous, synchronous

ROWS = '{"messages": [{"role": "user", "content": "¿?"}, {"role": "assistant", "content": "Sí"}]}\n'


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synchronous, "POLL_S", 0.0)
    monkeypatch.setattr(asynchronous, "POLL_S", 0.0)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "filas.jsonl"
    path.write_text(ROWS, encoding="utf-8")
    return path


def test_a_job_is_handed_in_and_followed_to_its_end(server: FakeServer, rows: Path) -> None:
    server.script = [[event(1, "one"), event(2, "two")], [], [event(3, "three", {"step": 1}), event(4, "x")]]
    with Llamaleon(server.url) as client:
        job = client.training.create(rows, base="nano", name="sí", validation=rows, seed=3, n_epochs=2)
        assert server.uploads == [ROWS.encode()] * 2
        assert server.requests[-1][:2] == ("POST", "job")
        assert server.requests[-1][2] == {
            "model": "nano",
            "suffix": "sí",
            "training_file": "file-2",
            "validation_file": "file-1",
            "seed": 3,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        }
        seen = list(client.training.events(job.id))
        assert [one.message for one in seen] == ["one", "two", "three", "x"]
        assert seen[2].data == {"step": 1}
        ended = client.training.wait(job.id)
        assert (ended.status, ended.ended) == ("succeeded", True)
        assert ended.fine_tuned_model == "ft:nano:local:poeta:1"
        assert [one.id for one in client.training.list()] == [job.id]


async def test_the_same_for_asyncio(server: FakeServer, rows: Path) -> None:
    server.script = [[event(number, str(number)) for number in range(7)]]  # three pages of the fake
    async with AsyncLlamaleon(f"{server.url}/v1") as client:  # as openai's clients have it
        job = await client.training.create(rows, base="nano", name="a")
        seen = [one.message async for one in client.training.events(job.id)]
        assert seen == [str(number) for number in range(7)]
        assert (await client.training.wait(job.id)).ended
        assert (await client.training.cancel(job.id)).status == "cancelled"


def test_adapters_and_models(server: FakeServer, tmp_path: Path) -> None:
    server.models["nano+sí"] = {"id": "nano+sí", "object": "model", "created": 1, "parent": "nano"}
    with Llamaleon(server.url) as client:
        assert client.adapters.list() == ["nano+sí"]
        assert [model.id for model in client.models.list()] == ["nano", "nano+sí"]
        client.adapters.load("sí", tmp_path / "a.gguf", base="nano", replace=True)
        assert server.requests[-1][2] == {
            "lora_name": "sí",
            "lora_path": str(tmp_path / "a.gguf"),
            "base_model_name": "nano",
            "load_inplace": True,
        }
        client.adapters.pin("nano+sí")
        assert server.requests[-1] == ("POST", "pin", "nano+sí")
        client.adapters.delete("nano+sí")
        assert "nano+sí" not in server.models
        assert client.models.add(tmp_path / "modelo.gguf") == "modelo"
        assert client.models.retrieve("modelo").id == "modelo"
        assert client.models.resident() == []


def test_evaluation_counts_exact_and_valid_answers(server: FakeServer, rows: Path) -> None:
    server.reply = lambda body: "Sí" if body["messages"][-1]["content"] == "¿?" else "{}"
    with Llamaleon(server.url) as client:
        score = client.evaluate("nano", rows)
        assert (score.rows, score.exact, score.valid_json) == (1, 1, None)
        wanted = [Example([{"role": "user", "content": "json"}], '{"a": 1}')]
        score = client.evaluate("nano", wanted)
        assert (score.rows, score.exact, score.valid_json) == (1, 0, 0)


async def test_evaluation_is_the_same_for_asyncio(server: FakeServer, rows: Path) -> None:
    server.reply = lambda body: "Sí"
    async with AsyncLlamaleon(server.url) as client:
        assert (await client.evaluate("nano", rows)).exact == 1


def test_refusals_carry_the_servers_words(server: FakeServer, tmp_path: Path) -> None:
    with Llamaleon(server.url) as client:
        with pytest.raises(ServerRefused) as refused:
            client.models.retrieve("nadie")
        assert (refused.value.status, refused.value.code) == (404, "model_not_found")
        with pytest.raises(BadInput, match=r"falta\.jsonl"):
            client.training.create(tmp_path / "falta.jsonl", base="nano", name="a")
    with Llamaleon("http://127.0.0.1:9") as nobody, pytest.raises(ServerUnreachable, match="127"):
        nobody.models.list()


class Elsewhere(FakeServer):
    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"models": ["not", "ours"]})


def test_another_program_at_the_url_is_told() -> None:
    with running(Elsewhere()) as other, Llamaleon(other.url) as client:
        with pytest.raises(ServerUnreachable, match="not Llamaleon's"):
            client.models.list()
        with pytest.raises(ServerUnreachable, match="not Llamaleon's"):
            client.adapters.list()


def test_a_key_is_sent(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMALEON_API_KEY", "secreto")
    monkeypatch.setenv("LLAMALEON_URL", server.url)
    with Llamaleon() as client:
        assert client.url == server.url
        assert client.openai_url == f"{server.url}/v1"
        assert client._http.headers["authorization"] == "Bearer secreto"


@pytest.mark.parametrize("resource", ["Models", "Adapters", "Training"])
def test_both_clients_have_the_same_methods(resource: str) -> None:
    def methods(module: object) -> dict[str, list[str]]:
        found = vars(getattr(module, resource)).items()
        return {
            name: list(inspect.signature(one).parameters) for name, one in found if inspect.isfunction(one)
        }

    assert methods(synchronous) == methods(asynchronous)
