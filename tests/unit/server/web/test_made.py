"""Made models over HTTP: created, listed, shown, copied, answered with, deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.api import CHATML, Api, error_of, running_api
from tests.lora import random_lora
from tests.unit.server.registry.small import write_base

from llamaleon_server.engine.protocol import Generate

MODELFILE = """\
FROM tiny
PARAMETER temperature 0.25
PARAMETER num_ctx 128
PARAMETER stop "END"
SYSTEM You are Mario.
MESSAGE user Who are you?
MESSAGE assistant It's me!
"""


async def create(api: Api, name: str = "mario", **body: Any) -> dict[str, Any]:
    response = await api.post("/llamaleon/models", **{"name": name, "modelfile": MODELFILE, **body})
    assert response.status_code == 200, response.text
    return dict(response.json())


async def load(api: Api, name: str, path: Path) -> None:
    body = {"lora_name": name, "lora_path": str(path), "base_model_name": "tiny"}
    assert (await api.post("/v1/load_lora_adapter", **body)).status_code == 200


def asked(api: Api) -> Generate:
    """The last generation that the last engine was asked for."""
    return [message for message in api.engines.last.received if isinstance(message, Generate)][-1]


async def test_a_made_model_answers_with_what_it_was_made_of(api: Api) -> None:
    await create(api)
    answer = await api.chat("Hi", model="mario")
    assert answer.json()["model"] == "mario"
    request = asked(api)
    assert request.prompt == (
        "<|im_start|>system\nYou are Mario.<|im_end|>\n"
        "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nIt's me!<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (request.sampling.temperature, request.stop, request.context_tokens) == (0.25, ("END",), 128)
    await api.chat("Hi", model="mario:latest", temperature=0.5)
    assert asked(api).sampling.temperature == 0.5, "the request's own word wins"
    assert len(api.engines.opened) == 1, "it shares its base's engine"


async def test_text_completions_take_its_sampling(api: Api) -> None:
    await create(api)
    await api.complete("Hi", model="mario", stop="X")
    request = asked(api)
    assert request.prompt == "Hi"
    assert (request.sampling.temperature, request.stop, request.context_tokens) == (0.25, ("X", "END"), 128)
    assert request.max_tokens == 16


async def test_it_is_listed_shown_and_printed(api: Api) -> None:
    await create(api)
    listed = {entry["id"]: entry for entry in (await api.http.get("/v1/models")).json()["data"]}
    assert (listed["mario"]["kind"], listed["mario"]["parent"]) == ("made", "tiny")
    shown = (await api.http.get("/llamaleon/models/mario")).json()
    assert (shown["kind"], shown["base"], shown["system"]) == ("made", "tiny", "You are Mario.")
    assert shown["parameters"] == {"temperature": 0.25, "stop": ["END"], "context_tokens": 128}
    assert shown["engine"]["least_context_tokens"] == 128
    printed = (await api.http.get("/llamaleon/models/mario?modelfile=1")).json()["modelfile"]
    await create(api, "again", modelfile=printed)
    assert (await api.http.get("/llamaleon/models/again?modelfile=1")).json()["modelfile"] == printed
    base = (await api.http.get("/llamaleon/models/tiny?modelfile=1")).json()["modelfile"]
    assert base == "FROM tiny\n"


async def test_created_of_fields(api: Api) -> None:
    body: dict[str, Any] = {
        "modelfile": None,
        "from": "tiny",
        "system": "Kurz.",
        "parameters": {"stop": ["A", "B"], "top_k": 3, "seed": None},
        "messages": [{"role": "user", "content": "x"}],
        "license": ["MIT"],
    }
    await create(api, **body)
    shown = (await api.http.get("/llamaleon/models/mario")).json()
    assert shown["parameters"] == {"top_k": 3, "stop": ["A", "B"]}
    assert shown["modelfile"].endswith("LICENSE MIT\n")
    assert (await api.http.get("/v1/models")).status_code == 200


async def test_adapters_from_files_and_by_name_with_weights(api: Api, tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        random_lora(tmp_path / "tiny.gguf", tmp_path / f"{name}.gguf", seed=seed)
    await load(api, "b", tmp_path / "b.gguf")
    text = "FROM tiny\nADAPTER ./a.gguf*0.5\nADAPTER b*0.25\n"
    made = await create(api, modelfile=text, folder=str(tmp_path))
    assert made["adapters"] == ["tiny+a@1*0.5", "tiny+b*0.25"]
    await api.chat(model="mario")
    weights = sorted(use.weight for use in asked(api).adapters)
    assert weights == [0.25, 0.5]
    await api.chat(model="mario+b")
    assert sorted(use.weight for use in asked(api).adapters) == [0.5, 1.25], "one more on top"
    await api.http.delete("/v1/models/tiny+a")
    gone = await api.chat(model="mario")
    assert gone.status_code == 404
    assert "tiny+a@1*0.5, which is not served any more" in error_of(gone)["message"]


async def test_copies_are_models_of_their_own(api: Api) -> None:
    await create(api)
    copied = await api.post("/llamaleon/copy", source="mario", destination="luigi:latest")
    assert copied.json()["name"] == "luigi"
    assert (await api.http.delete("/v1/models/mario")).json()["deleted"] is True
    assert (await api.chat(model="mario")).status_code == 404
    assert (await api.chat(model="luigi")).status_code == 200
    alias = await api.post("/llamaleon/copy", source="tiny", destination="my/alias:v1")
    assert alias.json()["base"] == "tiny"
    assert (await api.chat(model="my/alias:v1")).status_code == 200
    assert (await api.http.delete("/v1/models/my/alias:v1")).status_code == 200
    assert (await api.http.delete("/v1/models/my/alias:v1")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"name": "tiny"}, 409, "model"),
        ({"name": "tiny:latest"}, 409, "model"),
        ({"name": "a+b"}, 400, "model"),
        ({"modelfile": None}, 400, "modelfile"),
        ({"modelfile": "FROM tiny\nFOO bar\n"}, 400, "modelfile"),
        ({"modelfile": "FROM nowhere\n"}, 404, "model"),
        ({"modelfile": "FROM ./x.gguf\n"}, 400, "from"),
        ({"modelfile": "FROM /nowhere/x.gguf\n"}, 400, "path"),
        ({"modelfile": "FROM ~nobody.gguf\n", "folder": "/"}, 400, "from"),
        ({"modelfile": None, "from": "./\0.gguf", "folder": "/"}, 400, "from"),
        ({"modelfile": None, "from": "/\0.gguf"}, 400, "from"),
        ({"modelfile": None, "from": "tiny", "adapters": ["./\0"], "folder": "/"}, 400, "adapters"),
        ({"modelfile": "FROM tiny\nADAPTER bare\n"}, 400, "adapters"),
        (
            {"modelfile": None, "from": "tiny", "parameters": {"tempreature": 1}},
            400,
            "parameters.tempreature",
        ),
        ({"modelfile": None, "from": "tiny", "template": "{% if %}"}, 400, "template"),
        ({"folder": "relative"}, 400, "folder"),
    ],
)
async def test_what_cannot_be_made_says_why(api: Api, body: dict[str, Any], status: int, param: str) -> None:
    response = await api.post("/llamaleon/models", **{"name": "mario", "modelfile": MODELFILE, **body})
    assert (response.status_code, error_of(response)["param"]) == (status, param), response.text
    assert (await api.http.get("/v1/models/mario")).status_code == 404


async def test_names_that_are_taken(api: Api, tmp_path: Path) -> None:
    await create(api)
    twice = await api.post("/llamaleon/models", name="mario", modelfile=MODELFILE, replace=False)
    assert twice.status_code == 409
    base = await api.post("/llamaleon/bases", path=str(tmp_path / "bare.gguf"), name="mario")
    assert (base.status_code, error_of(base)["param"]) == (409, "name")
    random_lora(tmp_path / "tiny.gguf", tmp_path / "a.gguf", seed=1)
    await load(api, "sql", tmp_path / "a.gguf")
    adapter = await api.post("/llamaleon/copy", source="tiny", destination="sql")
    assert (adapter.status_code, error_of(adapter)["param"]) == (409, "destination")


async def test_a_base_that_vanishes_and_comes_back(api: Api, tmp_path: Path) -> None:
    await create(api)
    await api.http.delete("/llamaleon/bases/tiny")
    gone = await api.chat(model="mario")
    assert gone.status_code == 404
    assert "made from the base model `tiny`, which is not registered any more" in error_of(gone)["message"]
    assert (await api.http.get("/v1/models")).status_code == 200
    await api.post("/llamaleon/bases", path=str(tmp_path / "tiny.gguf"))
    assert (await api.chat(model="mario")).status_code == 200


async def test_deleted_and_replaced_while_it_answers(api: Api) -> None:
    import asyncio

    await create(api)
    await api.chat(model="mario")
    api.engines.last.gate.clear()
    running = asyncio.create_task(api.chat(model="mario"))
    await asyncio.sleep(0.05)
    await create(api, modelfile="FROM tiny\nSYSTEM Other.\n")
    assert (await api.http.delete("/v1/models/mario")).status_code == 200
    api.engines.last.gate.set()
    answer = await running
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Hola, ¿qué tal?"


async def test_the_presets_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    tiny = write_base(tmp_path / "tiny.gguf", template=CHATML)
    home = tmp_path / "home"
    home.mkdir()
    presets = home / "models.yaml"
    presets.write_text(
        "tiny:\n  temperature: 0.125\n  system: Kurz.\n  context_tokens: 99\n  keep_alive: 5m\n"
    )
    async with running_api(home, tiny) as api:
        await api.chat("Hi")
        assert asked(api).sampling.temperature == 0.125
        assert str(asked(api).prompt).startswith("<|im_start|>system\nKurz.<|im_end|>")
        [resident] = (await api.http.get("/llamaleon/ps")).json()["data"]
        assert (resident["options"]["context_tokens"], resident["keep_alive_s"]) == (99, 300.0)
        presets.write_text("tiny:\n  temperature: 0.5\n  context_tokens: 100\n")
        await api.chat("Hi")
        assert asked(api).sampling.temperature == 0.5
        assert len(api.engines.opened) == 2, "its context is fixed when it is loaded: it was loaded again"
        presets.write_text("tiny:\n  temperature: hot\n")
        await api.chat("Hi")
        assert asked(api).sampling.temperature == 0.5, "a mistake changes nothing"
        shown = (await api.http.get("/llamaleon/models/tiny")).json()
        assert "models.yaml, line 2: temperature needs a number" in shown["presets_problem"]
        assert shown["engine"]["context_tokens"] == 100
