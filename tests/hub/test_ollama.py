"""`pull` from an Ollama registry, against a server that answers as the registry does."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tests.hub.models import small_model
from tests.hub.serving import Elsewhere, Fault, sha256
from tests.lora import random_lora

from llamaleon_server.errors import BadRequest, DownloadFailed, HubRefused, NotFound
from llamaleon_server.hub.discovery import Discovery
from llamaleon_server.hub.names import OllamaName
from llamaleon_server.hub.ollama import Store
from llamaleon_server.hub.progress import Progress, Source
from llamaleon_server.hub.pull import pull
from llamaleon_server.hub.recording import release
from llamaleon_server.registry.modelfile import printed
from llamaleon_server.registry.models import describe
from llamaleon_server.registry.registry import Registry

GO_TEMPLATE = (
    "{{ if .System }}<|system|>{{ .System }}<|end|>{{ end }}"
    "<|user|>{{ .Prompt }}<|end|><|assistant|>{{ .Response }}"
)


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return small_model(tmp_path / "m")


@pytest.fixture(autouse=True)
def library(elsewhere: Elsewhere, model: bytes) -> None:
    elsewhere.add_model(
        "library/tiny/1b",
        {
            "model": model,
            "template": GO_TEMPLATE.encode(),
            "system": b"You are brief.",
            "params": json.dumps({"temperature": 0.3, "stop": ["<|end|>"], "typical_p": 0.7}).encode(),
            "messages": json.dumps(
                [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi."}]
            ).encode(),
            "license": b"MIT",
        },
    )


async def pulled(registry: Registry, elsewhere: Elsewhere, name: str) -> list[Progress]:
    return [step async for step in pull(registry, name, source=Source(mirror=elsewhere.url))]


async def test_weights_and_preset(
    registry: Registry, elsewhere: Elsewhere, model: bytes, tmp_path: Path
) -> None:
    steps = await pulled(registry, elsewhere, "tiny:1b")
    assert (steps[0].status, steps[-1].status) == ("pulling manifest", "success")
    assert steps[-1].model == "tiny:1b"
    blob = tmp_path / "home" / "models" / "ollama" / "blobs" / f"sha256-{sha256(model)}"
    assert blob.read_bytes() == model
    target = registry.resolve("tiny:1b")
    assert target.base.path == blob
    assert target.preset.system == "You are brief."
    assert target.preset.wanted.temperature == 0.3
    assert target.preset.stop == ("<|end|>",)
    assert [message["content"] for message in target.preset.messages] == ["Hi", "Hi."]
    assert "<|assistant|>" in (target.preset.template or "")
    assert "SYSTEM You are brief." in printed(describe(registry, "tiny:1b").modelfile)
    assert [entry.id for entry in registry.listing()] == ["tiny:1b"]


async def test_latest_is_its_bare_name(registry: Registry, elsewhere: Elsewhere, model: bytes) -> None:
    elsewhere.add_model("library/plain/latest", {"model": model})
    assert (await pulled(registry, elsewhere, "plain"))[-1].model == "plain"
    assert registry.resolve("plain:latest").base == registry.resolve("plain").base


async def test_blobs_are_resumed_and_checked(registry: Registry, elsewhere: Elsewhere) -> None:
    elsewhere.faults = [Fault(cut_after=500), Fault(status=503)]
    await pulled(registry, elsewhere, "tiny:1b")
    begun = [asked.headers["range"].split("-")[0] for asked in elsewhere.blob_requests()]
    assert begun[:3] == ["bytes=0", "bytes=500", "bytes=500"]


async def test_a_wrong_checksum_is_never_registered(registry: Registry, elsewhere: Elsewhere) -> None:
    elsewhere.faults = [Fault(wrong_bytes=True)]
    with pytest.raises(DownloadFailed, match="another checksum"):
        await pulled(registry, elsewhere, "tiny:1b")
    assert registry.base_names() == []


async def test_what_ollama_has_is_not_fetched(
    registry: Registry, elsewhere: Elsewhere, model: bytes, own_folders: Path
) -> None:
    blobs = own_folders / ".ollama" / "models" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"sha256-{sha256(model)}").write_bytes(model)
    await pulled(registry, elsewhere, "tiny:1b")
    assert registry.resolve("tiny:1b").base.path.parent == blobs
    assert sha256(model) not in {asked.path[5:] for asked in elsewhere.blob_requests()}


async def test_an_adapter_comes_along(
    registry: Registry, elsewhere: Elsewhere, model: bytes, tmp_path: Path
) -> None:
    lora = random_lora(tmp_path / "m" / "small.gguf", tmp_path / "lora.gguf", seed=1).read_bytes()
    elsewhere.add_model("library/tuned/latest", {"model": model, "adapter": lora})
    await pulled(registry, elsewhere, "tuned")
    [(version, weight)] = registry.resolve("tuned").adapters
    assert (version.key, weight) == (sha256(lora), 1.0)


async def test_other_hosts_by_their_name(registry: Registry, elsewhere: Elsewhere, model: bytes) -> None:
    elsewhere.add_model("team/m/v2", {"model": model})
    name = f"127.0.0.1:{elsewhere.port}/team/m:v2"
    steps = [step async for step in pull(registry, f"http://{name}")]
    assert steps[-1].model == name
    assert registry.resolve(name).base.name == name


@pytest.mark.parametrize(("status", "error"), [(401, HubRefused), (404, NotFound), (418, DownloadFailed)])
async def test_refusals(
    registry: Registry, elsewhere: Elsewhere, status: int, error: type[Exception]
) -> None:
    elsewhere.listing_faults = [status]
    with pytest.raises(error, match=f"{status}"):
        await pulled(registry, elsewhere, "tiny:1b")


async def test_a_manifest_that_is_none(registry: Registry, elsewhere: Elsewhere) -> None:
    elsewhere.manifests["library/odd/latest"] = (
        b'{"layers": [{"mediaType": "x", "digest": "sha256:../..", "size": 1}]}'
    )
    with pytest.raises(DownloadFailed, match="manifest of odd:latest cannot be read"):
        await pulled(registry, elsewhere, "odd")


async def test_a_model_of_another_kind(registry: Registry, elsewhere: Elsewhere) -> None:
    elsewhere.add_model("library/safe/latest", {"tensor": b"x", "license": b"MIT"})
    with pytest.raises(BadRequest, match="no GGUF model: it consists of license, tensor"):
        await pulled(registry, elsewhere, "safe")


async def test_what_is_removed_leaves_the_disk(
    registry: Registry, elsewhere: Elsewhere, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.add_model("library/twin/latest", {"model": model})
    await pulled(registry, elsewhere, "tiny:1b")
    await pulled(registry, elsewhere, "twin")
    now = time.time()
    monkeypatch.setattr("llamaleon_server.hub.ollama.time.time", lambda: now + 1000)
    discovery = Discovery(registry, look=False)
    blobs = tmp_path / "home" / "models" / "ollama" / "blobs"
    registry.remove_base("tiny:1b")
    await discovery.refresh()
    assert [path.name for path in blobs.iterdir()] == [f"sha256-{sha256(model)}"]
    release(registry, "twin")  # still served
    assert len(list(blobs.iterdir())) == 1
    registry.remove_base("twin")
    release(registry, "twin")
    assert list(blobs.iterdir()) == []


async def test_what_leaves_with_another_model_during_a_pull_is_fetched_again(
    registry: Registry, elsewhere: Elsewhere, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.add_model("library/twin/latest", {"model": model})
    await pulled(registry, elsewhere, "twin")
    noted = Store.note

    def after_a_removal(self: Store, name: OllamaName, manifest: bytes) -> None:
        registry.remove_base("twin")
        release(registry, "twin")
        noted(self, name, manifest)

    monkeypatch.setattr(Store, "note", after_a_removal)
    await pulled(registry, elsewhere, "tiny:1b")
    assert registry.resolve("tiny:1b").base.path.read_bytes() == model


async def test_what_a_newer_version_replaces_leaves_the_disk(
    registry: Registry, elsewhere: Elsewhere, model: bytes, tmp_path: Path
) -> None:
    blobs = tmp_path / "home" / "models" / "ollama" / "blobs"
    elsewhere.add_model("library/grows/latest", {"model": model, "system": b"First."})
    await pulled(registry, elsewhere, "grows")
    newer = small_model(tmp_path / "newer", seed=5)
    assert newer != model
    elsewhere.add_model("library/grows/latest", {"model": newer, "license": b"MIT"})
    for _ in range(2):
        await pulled(registry, elsewhere, "grows")
        assert registry.resolve("grows").base.path.read_bytes() == newer
        assert {path.name for path in blobs.iterdir()} == {
            f"sha256-{sha256(data)}" for data in (newer, b"MIT")
        }


async def test_a_damaged_manifest_is_in_nobodys_way(
    registry: Registry, elsewhere: Elsewhere, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "home" / "models" / "ollama"
    elsewhere.add_model("library/twin/latest", {"model": model, "license": b"MIT"})
    await pulled(registry, elsewhere, "twin")
    damaged = store / "manifests" / "registry.ollama.ai" / "library" / "odd" / "latest"
    damaged.parent.mkdir()
    damaged.write_bytes(b'{"layers": [')  # as a power cut leaves it
    registry.remove_base("twin")
    release(registry, "twin")
    assert len(list((store / "blobs").iterdir())) == 2, "they may be its own"
    now = time.time()
    monkeypatch.setattr("llamaleon_server.hub.ollama.time.time", lambda: now + 1000)
    await Discovery(registry, look=False).refresh()
    assert not damaged.exists()
