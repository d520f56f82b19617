"""`versions`, `promote`, `rollback`, `push`, and `add` from the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.unit.clients import fake_server
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer, error, running


def version(number: int, **more: Any) -> dict[str, Any]:
    made = {
        "id": f"nano+poeta@{number}",
        "object": "adapter",
        "name": "poeta",
        "base": "nano",
        "version": number,
        "state": "deployed",
        "reason": None,
        "serving": False,
        "rank": 8,
        "source": "trained",
        "created": 1700000000,
    }
    return {**made, **more}


class Adapters(FakeServer):
    def routes(self) -> list[Route]:
        return [
            Route("/llamaleon/adapters/{name:path}/promote", self.promote, methods=["POST"]),
            Route("/llamaleon/adapters/{name:path}/rollback", self.rollback, methods=["POST"]),
            Route("/llamaleon/adapters/{name:path}/versions", self.versions, methods=["GET"]),
            Route("/llamaleon/push", self.push, methods=["POST"]),
            Route("/llamaleon/pull_adapter", self.pull, methods=["POST"]),
            *super().routes(),
        ]

    async def promote(self, request: Request) -> Response:
        name = request.path_params["name"]
        if "@" not in name:
            return error(400, f"`{name}` names no version", param="name")
        return JSONResponse(version(int(name.partition("@")[2])))

    async def rollback(self, request: Request) -> Response:
        return JSONResponse(version(1, rolled_back_from=2))

    async def versions(self, request: Request) -> Response:
        failed = version(3, state="failed", reason="the engine refused it")
        data = [version(1, serving=True), version(2, state="registered", reason="rolled back to @1"), failed]
        history = [{"version": number, "deployed": 1700000000, "withdrawn": None} for number in (1, 2)]
        return JSONResponse({"object": "list", "id": "nano+poeta", "data": data, "deployments": history})

    async def push(self, request: Request) -> Response:
        self.requests.append(("POST", "push", await request.json()))
        return JSONResponse({"id": "nano+poeta@2", "url": "https://hub/somebody/poeta", "files": []})

    async def pull(self, request: Request) -> Response:
        self.requests.append(("POST", "pull_adapter", await request.json()))
        return JSONResponse(version(1))


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Adapters]:
    monkeypatch.setattr(fake_server, "FakeServer", Adapters)
    with running() as fake:
        assert isinstance(fake, Adapters)
        yield fake


def test_promote_and_rollback(llamaleon: Llamaleon, adapters: Adapters) -> None:
    promoted = llamaleon("promote", "nano+poeta@2", "--url", adapters.url)
    assert promoted.stdout == "nano+poeta now means nano+poeta@2.\n"
    back = llamaleon("rollback", "poeta", "--url", adapters.url)
    assert back.stdout == "nano+poeta means nano+poeta@1 again; @2 still answers by its number.\n"
    bare = llamaleon("promote", "nano+poeta", "--url", adapters.url)
    assert (bare.exit_code, bare.stdout) == (1, "")
    assert "names no version" in bare.stderr
    asked = json.loads(llamaleon("rollback", "poeta", "--json", "--url", adapters.url).stdout)
    assert asked["rolled_back_from"] == 2


def test_the_list_of_versions(llamaleon: Llamaleon, adapters: Adapters) -> None:
    lines = llamaleon("versions", "poeta", "--url", adapters.url).stdout.splitlines()
    assert lines[0].split() == ["VERSION", "STATE", "RANK", "SOURCE", "ADDED", "DEPLOYED"]
    assert lines[1].split()[:4] == ["1", "serving", "8", "trained"]
    assert lines[2].split()[:2] == ["2", "registered"]
    assert lines[2].rstrip().endswith("rolled back to @1")
    assert lines[3].split()[:2] == ["3", "failed"]
    assert lines[3].rstrip().endswith("-               the engine refused it")  # never deployed


def test_push_sends_what_was_given(llamaleon: Llamaleon, adapters: Adapters) -> None:
    options = ("--license", "mit", "--private", "--message", "Añade", "--token", "hf_x")
    result = llamaleon("push", "nano+poeta", "somebody/poeta", *options, "--url", adapters.url)
    assert result.stdout == "Pushed nano+poeta@2: https://hub/somebody/poeta\n"
    body = {
        "model": "nano+poeta",
        "repo": "somebody/poeta",
        "private": True,
        "license": "mit",
        "message": "Añade",
        "token": "hf_x",
    }
    assert adapters.requests[-1] == ("POST", "push", body)


def test_add_from_the_hub(llamaleon: Llamaleon, adapters: Adapters) -> None:
    line = ("add", "poeta", "hf:somebody/poeta", "--base", "nano", "--replace", "--url", adapters.url)
    result = llamaleon(*line)
    assert result.stdout == "Serving nano+poeta.\n", result.stderr
    body = {"repo": "hf:somebody/poeta", "name": "poeta", "base": "nano", "replace": True}
    assert adapters.requests[-1] == ("POST", "pull_adapter", body)
    whole = llamaleon("add", "poeta", "hf:somebody/poeta", "--model", "--url", adapters.url)
    assert "--model and --projector do not go with it" in whole.stderr
