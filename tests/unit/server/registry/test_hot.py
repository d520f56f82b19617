"""Loading an adapter by path: GGUF or PEFT, the base found, refusals with their reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.lora import random_lora
from tests.unit.server.registry.peft import WIDTH, write_peft
from tests.unit.server.registry.small import write_base

from llamaleon_convert.manifest import sha256_file
from llamaleon_server.errors import AdapterRefused, BadRequest, ModelNotFound, NotFound
from llamaleon_server.registry.hot import load_adapter
from llamaleon_server.registry.records import Base
from llamaleon_server.registry.registry import Registry


async def test_a_gguf_by_path(registry: Registry, base: Base, tmp_path: Path) -> None:
    gguf = random_lora(base.path, tmp_path / "a.gguf", seed=1)
    version = await load_adapter(registry, "sql", gguf)
    assert (version.model, version.key, version.state) == ("tiny+sql", sha256_file(gguf), "deployed")


async def test_a_peft_directory_is_converted_and_kept(registry: Registry, base: Base, tmp_path: Path) -> None:
    version = await load_adapter(registry, "sql", write_peft(tmp_path / "peft"))
    assert version.manifest.base == base.fingerprint
    assert version.manifest.rank == 2
    assert (version.directory / "peft" / "adapter_config.json").exists()
    assert [path.name for path in (registry.home / "adapters").iterdir()] == ["sql"]


async def test_a_taken_name_needs_load_inplace(registry: Registry, base: Base, tmp_path: Path) -> None:
    await load_adapter(registry, "sql", random_lora(base.path, tmp_path / "a.gguf", seed=1))
    other = random_lora(base.path, tmp_path / "b.gguf", seed=2)
    with pytest.raises(BadRequest, match="has already been loaded") as caught:
        await load_adapter(registry, "sql", other)
    assert caught.value.param == "lora_name"
    assert (await load_adapter(registry, "sql", other, replace=True)).version == 2


async def test_the_base_is_found_by_fingerprint(registry: Registry, base: Base, tmp_path: Path) -> None:
    twin = registry.add_base(write_base(tmp_path / "twin.gguf", seed=4))
    from_twin = await load_adapter(registry, "a", write_peft(tmp_path / "p"), base="twin")
    assert from_twin.base == "twin"
    # Converted for the twin, the file now says so, and the base of equal shapes is out.
    found = await load_adapter(registry, "b", from_twin.path)
    assert found.base == twin.name
    with pytest.raises(AdapterRefused, match="weights_sha256"):
        await load_adapter(registry, "c", from_twin.path, base="tiny")


async def test_several_fitting_bases_are_listed(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.add_base(write_base(tmp_path / "twin.gguf", seed=4))
    with pytest.raises(BadRequest, match="`tiny`, `twin`") as caught:
        await load_adapter(registry, "a", random_lora(base.path, tmp_path / "a.gguf", seed=1))
    assert caught.value.param == "base_model_name"
    # A PEFT configuration names its base: good enough to choose between those that fit.
    named = await load_adapter(registry, "b", write_peft(tmp_path / "p", base_name="hub/twin"))
    assert named.base == "twin"


async def test_no_fitting_base_says_why_for_each(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.add_base(write_base(tmp_path / "wide.gguf", width=2 * WIDTH))
    with pytest.raises(AdapterRefused, match=r"`tiny`: .*`wide`: "):
        await load_adapter(registry, "a", write_peft(tmp_path / "p", width=24))


async def test_bad_input_is_named(registry: Registry, base: Base, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No adapter found"):
        await load_adapter(registry, "a", tmp_path / "nothing.gguf")
    with pytest.raises(ModelNotFound):
        await load_adapter(registry, "a", base.path, base="nothing")
    with pytest.raises(BadRequest, match="cannot name"):
        await load_adapter(registry, "a+b", base.path)
    with pytest.raises(AdapterRefused, match="not a LoRA"):
        await load_adapter(registry, "a", base.path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterRefused, match=r"adapter_config\.json"):
        await load_adapter(registry, "a", tmp_path / "empty")
    (tmp_path / "empty" / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterRefused, match="not JSON"):
        await load_adapter(registry, "a", tmp_path / "empty")
    assert registry.adapters() == []


def test_a_sweep_removes_what_died_while_it_was_taken_in(registry: Registry) -> None:
    left = registry.home / "adapters" / ".incoming-1"
    left.mkdir()
    registry.sweep()
    assert not left.exists()


async def test_without_any_base(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no base model"):
        await load_adapter(registry, "a", write_peft(tmp_path / "p"))
