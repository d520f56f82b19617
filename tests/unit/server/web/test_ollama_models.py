"""Ollama's routes about models over the fake engine: tags, show, create and its blobs, copy, delete, pull."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from tests.api import CHATML, Api
from tests.lora import random_lora
from tests.unit.server.registry.small import write_base

from llamaleon_server.engine.protocol import Generate
from llamaleon_server.errors import DownloadFailed, NotFound
from llamaleon_server.hub.progress import Progress
from llamaleon_server.registry.registry import Registry
from llamaleon_server.web.ollama import pull
from llamaleon_server.web.ollama.blobs import blob_path


async def names(api: Api) -> set[str]:
    listed = ollama.ListResponse.model_validate_json((await api.http.get("/api/tags")).text)
    return {model.model or "" for model in listed.models}


async def show(api: Api, model: str, **more: Any) -> dict[str, Any]:
    response = await api.post("/api/show", model=model, **more)
    assert response.status_code == 200, response.text
    ollama.ShowResponse.model_validate_json(response.text)
    return dict(response.json())


async def create(api: Api, model: str, **more: Any) -> httpx.Response:
    return await api.post("/api/create", **{"model": model, "stream": False, **more})


async def upload(api: Api, path: Path) -> str:
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    response = await api.http.post(f"/api/blobs/{digest}", content=path.read_bytes())
    assert response.status_code == 201
    return digest


async def chat(api: Api, model: str) -> Generate:
    """What the engine was asked."""
    message = {"role": "user", "content": "?"}
    response = await api.post("/api/chat", model=model, messages=[message], stream=False)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == model
    [*_, last] = [asked for asked in api.engines.last.received if isinstance(asked, Generate)]
    return last


def error_of(response: httpx.Response) -> tuple[int, str]:
    assert list(response.json()) == ["error"]
    return response.status_code, response.json()["error"]


async def test_models_are_listed_with_tags_and_digests(api: Api) -> None:
    assert await names(api) == {"nano:latest", "tiny:latest", "bare:latest"}
    models = {model["name"]: model for model in (await api.http.get("/api/tags")).json()["models"]}
    assert len({model["digest"] for model in models.values()}) == 3
    nano = models["nano:latest"]
    assert (nano["details"]["family"], nano["details"]["format"]) == ("qwen2", "gguf")
    assert nano["details"]["parameter_size"].endswith("M")
    assert nano["size"] > 1e6


async def test_what_cannot_be_asked_for_is_not_listed(api: Api, tmp_path: Path) -> None:
    await chat(api, "tiny")
    digest = await upload(api, random_lora(tmp_path / "bare.gguf", tmp_path / "poet.gguf", seed=1))
    await create(api, "poet", **{"from": "bare"}, adapters={"poet.gguf": digest})
    assert {"poet:latest", "bare+poet:latest"} < await names(api)
    for version in api.services.registry.adapters():
        version.path.unlink()
    (tmp_path / "tiny.gguf").unlink()
    assert await names(api) == {"nano:latest", "bare:latest"}
    assert [model["name"] for model in (await api.http.get("/api/ps")).json()["models"]] == ["tiny:latest"]
    assert error_of(await api.post("/api/show", model="tiny"))[0] == 404


async def test_everything_about_a_base(api: Api) -> None:
    shown = await show(api, "tiny:latest")
    assert shown["template"] == CHATML
    assert shown["modelfile"].startswith("FROM tiny")
    assert shown["capabilities"] == ["completion"]
    info = shown["model_info"]
    assert (info["general.architecture"], info["llama.block_count"]) == ("llama", 1)
    assert info["tokenizer.ggml.tokens"] is None
    assert len((await show(api, "tiny", verbose=True))["model_info"]["tokenizer.ggml.tokens"]) == 32
    assert error_of(await api.post("/api/show", model="tony"))[0] == 404
    assert error_of(await api.post("/api/show"))[0] == 400


async def test_a_model_of_a_model(api: Api) -> None:
    made = await create(
        api,
        "mario:latest",
        **{"from": "tiny"},
        system="You are Mario.",
        parameters={"temperature": 0.1, "stop": ["x", "y"], "num_predict": 5},
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It's-a me!"}],
        license="MIT",
    )
    assert made.json() == {"status": "success"}
    assert "mario:latest" in await names(api)
    shown = await show(api, "mario")
    assert shown["system"] == "You are Mario."
    assert shown["details"]["parent_model"] == "tiny"
    assert shown["license"] == "MIT"
    assert shown["messages"][1] == {"role": "assistant", "content": "It's-a me!"}
    assert [line.split() for line in shown["parameters"].split("\n")] == [
        ["temperature", "0.1"],
        ["stop", "x"],
        ["stop", "y"],
        ["num_predict", "5"],
    ]
    asked = await chat(api, "mario:latest")
    assert isinstance(asked.prompt, str)
    assert "You are Mario." in asked.prompt
    assert "It's-a me!" in asked.prompt
    assert (asked.sampling.temperature, asked.stop, asked.max_tokens) == (0.1, ("x", "y"), 5)
    assert asked.sampling.top_k == 40  # what the model does not say is Ollama's default


async def test_creating_says_each_step(api: Api) -> None:
    response = await api.post("/api/create", **{"model": "mario", "from": "tiny"})
    assert response.headers["content-type"] == "application/x-ndjson"
    *steps, last = [json.loads(line)["status"] for line in response.text.splitlines()]
    assert steps
    assert last == "success"


async def test_what_has_no_effect_is_said(api: Api) -> None:
    more = {"from": "tiny", "template": "{{ .Prompt }}", "parameters": {"num_keep": 4}}
    response = await api.post("/api/create", model="mario", **more)
    assert "num_keep" in response.text
    assert json.loads(response.text.splitlines()[-1]) == {"status": "success"}


async def test_a_modelfile(api: Api) -> None:
    made = await create(api, "mario", modelfile="FROM tiny\nSYSTEM Be brief.\nPARAMETER seed 7\n")
    assert made.status_code == 200, made.text
    assert (await chat(api, "mario")).sampling.seed == 7


async def test_a_model_of_uploaded_files(api: Api, tmp_path: Path) -> None:
    base = write_base(tmp_path / "other.gguf", seed=5, template=CHATML)
    digest = await upload(api, base)
    assert (await api.http.head(f"/api/blobs/{digest}")).status_code == 200
    assert (await api.http.post(f"/api/blobs/{digest}", content=b"again")).status_code == 200
    made = await create(api, "mine", files={"other.gguf": digest}, system="S")
    assert made.json() == {"status": "success"}, made.text
    assert "mine:latest" in await names(api)
    assert "<|im_start|>system\nS" in str((await chat(api, "mine")).prompt)
    assert (await api.http.request("DELETE", "/api/delete", json={"model": "mine:latest"})).status_code == 200
    assert "mine:latest" not in await names(api)
    assert (await api.http.head(f"/api/blobs/{digest}")).status_code == 404  # nobody needs it any more


async def test_a_model_with_an_adapter(api: Api, tmp_path: Path) -> None:
    lora = random_lora(tmp_path / "tiny.gguf", tmp_path / "poet.gguf", seed=1)
    digest = await upload(api, lora)
    made = await create(api, "poet-tiny", **{"from": "tiny"}, adapters={"poet.gguf": digest})
    assert made.json() == {"status": "success"}, made.text
    assert len((await chat(api, "poet-tiny:latest")).adapters) == 1
    assert "tiny+poet:latest" in await names(api)
    assert (await chat(api, "tiny+poet:latest")).adapters == (await chat(api, "poet-tiny")).adapters
    gone = await api.http.request("DELETE", "/api/delete", json={"model": "poet-tiny"})
    assert gone.status_code == 200
    assert "tiny+poet:latest" in await names(api)  # the adapter is a model of its own
    gone = await api.http.request("DELETE", "/api/delete", json={"name": "tiny+poet:latest"})
    assert gone.status_code == 200, gone.text
    assert await names(api) == {"nano:latest", "tiny:latest", "bare:latest"}


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({}, "from"),
        ({"from": "tiny", "quantize": "q4_K_M"}, "quantize"),
        ({"from": "tiny", "renderer": "x"}, "renderer"),
        ({"from": "tiny", "parameters": {"temprature": 1}}, "temperature"),
        ({"from": "bare", "template": "{{ range .Tools }}{{ end }}"}, "template"),
        ({"from": "tiny", "adapters": {"a": "sha256:" + "0" * 64}}, "adapters.a"),
        ({"from": "tiny", "adapters": {"a": "md5:0"}}, "adapters.a"),
        ({"files": {"a": "sha256:" + "0" * 64}}, "files.a"),
        ({"from": "tiny", "modelfile": "FROM tiny"}, "modelfile"),
        ({"modelfile": "FROM tiny", "system": "Be brief."}, "system"),
        ({"modelfile": "FORM tiny"}, "FORM"),
    ],
)
async def test_models_that_cannot_be_made(api: Api, more: dict[str, Any], word: str) -> None:
    status, message = error_of(await create(api, "x", **more))
    assert status == 400
    assert word in message
    assert "x:latest" not in await names(api)


async def test_what_is_not_here_is_pulled(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def pull_it(registry: Registry, name: str, **more: Any) -> AsyncGenerator[Progress, None]:
        async for step in pulled(registry, name, **more):
            yield step
        registry.add_base(registry.base("tiny").path, name)

    monkeypatch.setattr(pull, "pulled", pull_it)
    response = await api.post("/api/create", **{"model": "mario", "from": "llama3.2:1b"})
    statuses = [json.loads(line)["status"] for line in response.text.splitlines()]
    assert statuses[0] == "pulling manifest"
    assert statuses.count("success") == 1
    assert statuses[-1] == "success"
    assert {"mario:latest", "llama3.2:1b"} <= await names(api)
    assert error_of(await create(api, "x", **{"from": "unknown"}))[0] == 404


async def test_what_is_neither_here_nor_to_be_reached(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreachable(*_: Any, **__: Any) -> AsyncGenerator[Progress, None]:
        raise DownloadFailed("The registry cannot be reached.")
        yield Progress(status="")

    monkeypatch.setattr(pull, "pulled", unreachable)
    status, message = error_of(await create(api, "x", **{"from": "tony"}))
    assert status == 404
    assert "tiny" in message  # the nearest name
    assert "reached" in message


async def test_a_file_that_is_no_model(api: Api, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no GGUF")
    digest = await upload(api, tmp_path / "x")
    status, message = error_of(await create(api, "x", files={"x.gguf": digest}))
    assert status == 400
    assert "files.x.gguf" in message


async def test_blobs_are_checked(api: Api) -> None:
    wrong = f"sha256:{'0' * 64}"
    assert error_of(await api.http.post(f"/api/blobs/{wrong}", content=b"x"))[0] == 400
    assert (await api.http.head(f"/api/blobs/{wrong}")).status_code == 404
    assert error_of(await api.http.post("/api/blobs/sha256:x", content=b"x"))[0] == 400
    assert not list((api.services.registry.home / "blobs").iterdir())


async def test_blobs_wait_for_their_use_but_not_for_ever(api: Api, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"one")
    (tmp_path / "y").write_bytes(b"two")
    old, new = await upload(api, tmp_path / "x"), await upload(api, tmp_path / "y")
    os.utime(blob_path(api.services.registry, old), (1, 1))
    await api.http.request("DELETE", "/api/delete", json={"model": "bare"})
    assert (await api.http.head(f"/api/blobs/{old}")).status_code == 404
    assert (await api.http.head(f"/api/blobs/{new}")).status_code == 200


async def test_copies(api: Api) -> None:
    assert (await api.post("/api/copy", source="tiny", destination="mine:latest")).status_code == 200
    assert "mine:latest" in await names(api)
    assert (await chat(api, "mine")).prompt == (await chat(api, "tiny")).prompt
    assert error_of(await api.post("/api/copy", source="tony", destination="x"))[0] == 404
    assert error_of(await api.post("/api/copy", source="tiny", destination="bare"))[0] == 409
    gone = await api.http.request("DELETE", "/api/delete", json={"model": "tony"})
    assert error_of(gone)[0] == 404


async def test_a_base_is_forgotten_and_unloaded(api: Api, tmp_path: Path) -> None:
    await chat(api, "tiny")
    assert (await api.http.request("DELETE", "/api/delete", json={"model": "tiny"})).status_code == 200
    assert (await api.http.get("/api/ps")).json() == {"models": []}
    assert (tmp_path / "tiny.gguf").exists()
    assert api.engines.last.closed


# ---------------------------------------------------------------- pull


async def pulled(registry: Any, name: str, **more: Any) -> AsyncGenerator[Progress, None]:
    assert more == {"ollama": True}
    if name == "unknown":
        raise NotFound("There is no such model.", param="model")
    yield Progress(status="pulling manifest")
    yield Progress(status="pulling 0a1b", digest="sha256:0a1b", total=10, completed=4)
    yield Progress(status="success", model=name)


async def test_pulling_line_by_line(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "pulled", pulled)
    response = await api.post("/api/pull", model="llama3.2:1b")
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    for line in lines:
        ollama.ProgressResponse.model_validate(line, strict=True)
    assert lines == [
        {"status": "pulling manifest"},
        {"status": "pulling 0a1b", "digest": "sha256:0a1b", "total": 10, "completed": 4},
        {"status": "success"},
    ]
    assert (await api.post("/api/pull", name="x", stream=False)).json() == {"status": "success"}


@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_pulled(api: Api, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    monkeypatch.setattr(pull, "pulled", pulled)
    assert error_of(await api.post("/api/pull", model="unknown", stream=stream))[0] == 404
    assert error_of(await api.post("/api/pull", stream=stream))[0] == 400
