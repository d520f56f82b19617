"""Adapters to and from the hub, through huggingface_hub itself, against a server that answers as it does."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.api import Api, error_of, running_api
from tests.hub.models import small_model
from tests.hub.uploading import NEXT_COMMIT, TOKEN, UploadHub, upload_hub
from tests.lora import random_lora
from tests.unit.server.registry.peft import write_peft
from tests.unit.server.registry.small import write_base

from llamaleon_server.hub.card import Card, hub_id, rendered

BASE = "somebody/Tiny-GGUF:F32"
REPO = "somebody/poeta"
# huggingface_hub's own call of httpx2, which announces another spelling.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    with upload_hub() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", made.url)  # read at import
        yield made


@pytest.fixture
async def api(tmp_path: Path, hub: UploadHub) -> AsyncIterator[Api]:
    async with running_api(tmp_path / "home") as running:
        running.services.registry.add_base(write_base(tmp_path / "tiny.gguf"), BASE)
        yield running


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


async def add_peft(api: Api, folder: Path) -> None:
    peft = write_peft(folder / "peft", base_name="/somebody/secret/place/tiny.gguf")
    body = {"lora_name": "poeta", "lora_path": str(peft), "base_model_name": BASE}
    assert (await api.post("/v1/load_lora_adapter", **body)).status_code == 200


def give_history(api: Api) -> None:
    """As a job leaves it."""
    registry = api.services.registry
    [(version, _)] = registry.resolve(f"{BASE}+poeta").adapters
    figure = {
        "base": {"value": 2.5, "low": 2.25, "high": 2.75},
        "adapter": {"value": 0.5, "low": 0.4, "high": 0.6},
    }
    evaluation = {
        "rows": 40,
        "metrics": {"loss": {"figures": figure}, "exact_match": {"figures": {"adapter": {"value": 0.9}}}},
        "parity": {"mean_kl": 2.3e-7},
    }
    training = {"job": "ftjob-1", "training_file": "file-1", "n_epochs": 3, "learning_rate": 2e-4}
    manifest = msgspec.structs.replace(version.manifest, training=training, evaluation=evaluation)
    registry.set_manifest(version, manifest)


@pytest.mark.usefixtures("token")
async def test_push_and_pull_back(api: Api, hub: UploadHub, tmp_path: Path) -> None:
    await add_peft(api, tmp_path)
    give_history(api)
    answer = await api.post(
        "/llamaleon/push", model=f"{BASE}+poeta", repo=REPO, private=True, license="apache-2.0"
    )
    assert answer.status_code == 200, answer.text
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "poeta.gguf"]
    assert answer.json() == {
        "id": f"{BASE}+poeta@1",
        "repo": REPO,
        "url": f"{hub.url}/{REPO}",
        "commit": NEXT_COMMIT,
        "files": names,
    }
    [created] = hub.created
    assert (created["name"], created["organization"]) == ("poeta", "somebody")
    assert created.get("visibility") == "private" or created.get("private") is True
    [commit] = hub.commits
    assert (commit["repo"], commit["revision"], commit["summary"]) == (REPO, "main", f"Add {BASE}+poeta@1")
    files = hub.repos[REPO]
    assert sorted(files) == names
    [(version, _)] = api.services.registry.resolve(f"{BASE}+poeta").adapters
    assert files["poeta.gguf"] == version.path.read_bytes()
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["r"]) == ("somebody/Tiny-GGUF", 2)
    assert not [body for body in hub.sent if b"/somebody/secret" in body]

    pulled = await api.post("/llamaleon/pull_adapter", repo=f"hf:{REPO}", name="otro", base=BASE)
    assert pulled.status_code == 200, pulled.text
    assert (pulled.json()["id"], pulled.json()["serving"]) == (f"{BASE}+otro@1", True)
    assert pulled.json()["sha256"] == version.key
    kept = Path(pulled.json()["path"]).parent / "peft"
    assert (kept / "adapter_model.safetensors").read_bytes() == files["adapter_model.safetensors"]
    assert (await api.complete(model=f"{BASE}+otro")).status_code == 200


@pytest.mark.usefixtures("token")
async def test_the_card(api: Api, hub: UploadHub, tmp_path: Path) -> None:
    await add_peft(api, tmp_path)
    give_history(api)
    await api.post("/llamaleon/push", model=f"{BASE}+poeta", repo=REPO, license="mit")
    card = hub.repos[REPO]["README.md"].decode()
    _, metadata, text = card.split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "base_model": "somebody/Tiny-GGUF",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "mit",
        "tags": ["lora", "llamaleon", "gguf"],
    }
    assert "| loss | 2.5 [2.25, 2.75] | 0.5 [0.4, 0.6] |" in text
    assert "| exact match | - | 0.9 |" in text
    assert "On 40 rows that were held out" in text
    assert "| `learning_rate` | 0.0002 |" in text
    assert f"llamaleon add poeta hf:{REPO}" in text
    for hidden in ("ftjob-1", "file-1", str(tmp_path)):
        assert hidden not in card
    # huggingface_hub's own reader of cards takes it.
    from huggingface_hub import ModelCard

    assert vars(ModelCard(card).data)["base_model"] == "somebody/Tiny-GGUF"


@pytest.mark.usefixtures("token")
async def test_a_second_push_is_a_second_commit(api: Api, hub: UploadHub, tmp_path: Path) -> None:
    await add_peft(api, tmp_path)
    for message in ("Uno", "Dos"):
        body = {"model": f"{BASE}+poeta@1", "repo": REPO, "message": message}
        assert (await api.post("/llamaleon/push", **body)).status_code == 200
    assert [commit["summary"] for commit in hub.commits] == ["Uno", "Dos"]
    objects = [asked for asked in hub.asked if asked.path.startswith("/objects/")]
    assert len(objects) == 2  # the GGUF and the weights, once each


async def test_an_adapter_without_peft_files_is_pushed_as_gguf(
    api: Api, hub: UploadHub, tmp_path: Path
) -> None:
    base = api.services.registry.base(BASE)
    path = random_lora(base.path, tmp_path / "a.gguf", seed=1)
    await api.post("/v1/load_lora_adapter", lora_name="sql", lora_path=str(path), base_model_name=BASE)
    answer = await api.post("/llamaleon/push", model="sql", repo="somebody/sql", token=TOKEN)
    assert answer.json()["files"] == ["README.md", "sql.gguf"]
    assert "library_name: llama.cpp" in hub.repos["somebody/sql"]["README.md"].decode()
    pulled = await api.post("/llamaleon/pull_adapter", repo="hf:somebody/sql", name="de-vuelta")
    assert pulled.json()["id"] == f"{BASE}+de-vuelta@1"
    again = await api.post("/llamaleon/pull_adapter", repo="somebody/sql/sql.gguf", name="de-vuelta")
    assert again.status_code == 400
    assert "already been loaded" in error_of(again)["message"]
    body = {"repo": "somebody/sql/sql.gguf", "name": "de-vuelta", "replace": True}
    assert (await api.post("/llamaleon/pull_adapter", **body)).status_code == 200


async def test_pushes_that_are_refused(api: Api, hub: UploadHub, tmp_path: Path) -> None:
    await add_peft(api, tmp_path)
    model = f"{BASE}+poeta"
    anonymous = await api.post("/llamaleon/push", model=model, repo=REPO)
    assert (anonymous.status_code, error_of(anonymous)["param"]) == (403, "token")
    assert hub.asked == []
    wrong = await api.post("/llamaleon/push", model=model, repo=REPO, token="hf_wrong")
    assert (wrong.status_code, error_of(wrong)["code"]) == (403, "hub_refused")
    elsewhere = await api.post("/llamaleon/push", model=model, repo="others/poeta", token=TOKEN)
    assert elsewhere.status_code == 403
    assert "does not let this token write to others/poeta" in error_of(elsewhere)["message"]
    nowhere = {"token": TOKEN, "mirror": "http://127.0.0.1:9"}
    unreachable = await api.post("/llamaleon/push", model=model, repo=REPO, **nowhere)
    assert (unreachable.status_code, error_of(unreachable)["code"]) == (502, "upload_failed")
    nameless = await api.post("/llamaleon/push", model=model, repo="poeta", token=TOKEN)
    assert (nameless.status_code, error_of(nameless)["param"]) == (400, "repo")
    base = await api.post("/llamaleon/push", model=BASE, repo=REPO, token=TOKEN)
    assert base.status_code == 400
    hub.refuse_objects = True
    broken = await api.post("/llamaleon/push", model=model, repo=REPO, token=TOKEN)
    assert (broken.status_code, error_of(broken)["code"]) == (502, "upload_failed")
    assert hub.commits == []


async def test_the_token_is_in_no_log_and_in_no_answer(
    api: Api, hub: UploadHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await add_peft(api, tmp_path)
    hub.refuse_objects = True
    with caplog.at_level(logging.DEBUG):
        answer = await api.post("/llamaleon/push", model=f"{BASE}+poeta", repo=REPO, token=TOKEN)
    assert any(asked.headers.get("authorization") == f"Bearer {TOKEN}" for asked in hub.asked)
    assert TOKEN not in answer.text
    assert TOKEN not in caplog.text


@pytest.mark.usefixtures("token")
async def test_the_servers_own_token_goes_to_no_mirror(api: Api, hub: UploadHub, tmp_path: Path) -> None:
    await add_peft(api, tmp_path)
    answer = await api.post("/llamaleon/push", model=f"{BASE}+poeta", repo=REPO, mirror=hub.url)
    assert (answer.status_code, error_of(answer)["param"]) == (403, "token")


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        ({}, 404, "has no adapter"),
        ({"a.gguf": b"x", "b.gguf": b"y"}, 400, "several GGUF files"),
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, 400, "can run code"),
        ({"adapter_config.json": b"[]", "adapter_model.safetensors": b"x"}, 400, "hf:somebody/x"),
    ],
)
async def test_what_is_no_adapter_is_refused(
    api: Api, hub: UploadHub, files: dict[str, bytes], status: int, said: str
) -> None:
    hub.put("somebody/x", {"config.json": b"{}", **files})
    answer = await api.post("/llamaleon/pull_adapter", repo="hf:somebody/x", name="x")
    assert answer.status_code == status, answer.text
    assert said in error_of(answer)["message"]
    assert api.services.registry.adapters() == []


async def test_an_adapter_of_another_model_is_refused_by_name(
    api: Api, hub: UploadHub, tmp_path: Path
) -> None:
    wide = tmp_path / "wide"
    wide.mkdir()
    other = wide / "wide.gguf"
    other.write_bytes(small_model(wide, width=64))
    lora = random_lora(other, tmp_path / "a.gguf", seed=1)
    hub.put("somebody/x", {"x.gguf": lora.read_bytes()})
    answer = await api.post("/llamaleon/pull_adapter", repo="hf:somebody/x", name="x", base=BASE)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "adapter_refused")
    assert "hf:somebody/x" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/B-GGUF:Q4_K_M", "a/B-GGUF"), ("a/B", "a/B"), ("nano", None), ("qwen2.5:0.5b", None)],
)
def test_the_id_of_a_base(name: str, expected: str | None) -> None:
    assert hub_id(name) == expected


def test_a_card_of_an_adapter_of_unknown_history() -> None:
    from llamaleon_convert.manifest import Manifest

    manifest = Manifest(sha256="0", architecture="llama", rank=4, alpha=8.0, target_tensors=["a"])
    card = rendered(
        Card(name="x", repo="a/x", base="nano", base_model=None, manifest=manifest, files=["x.gguf"])
    )
    assert "base_model" not in card
    assert "license" not in card
    assert "## Evaluation" not in card
    assert "LoRA adapter of nano" in card


def test_figures_from_before_there_were_intervals() -> None:
    from llamaleon_convert.manifest import Manifest

    evaluation: dict[str, Any] = {"base": {"loss": 2.0, "rows": 4}, "adapter": {"loss": 1.0}, "rows": 4}
    manifest = Manifest(
        sha256="0", architecture="llama", rank=4, alpha=8.0, target_tensors=["a"], evaluation=evaluation
    )
    card = rendered(
        Card(name="x", repo="a/x", base="nano", base_model=None, manifest=manifest, files=["x.gguf"])
    )
    assert "| loss | 2 | 1 |" in card
