"""Versions are immutable, whole or absent, and gone for good once retired."""

from __future__ import annotations

import errno
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.lora import random_lora
from tests.unit.server.registry.conftest import Adder

from llamaleon_convert import check_lora
from llamaleon_convert.header import read_header
from llamaleon_convert.manifest import read_manifest, sha256_file
from llamaleon_server.errors import AdapterRefused, BadRequest, Conflict, ModelNotFound, StorageFull
from llamaleon_server.registry import blobs
from llamaleon_server.registry.records import AdapterVersion, Base
from llamaleon_server.registry.registry import Registry


def test_content_and_manifest_are_copied_in(registry: Registry, base: Base, add: Adder) -> None:
    version = add(base, "sql")
    assert version.path == registry.home / "adapters" / "sql" / "1" / "adapter.gguf"
    assert sha256_file(version.path) == version.key
    assert read_manifest(version.directory / "manifest.json") == version.manifest


def test_a_restart_finds_everything(registry: Registry, base: Base, add: Adder) -> None:
    version = add(base, "sql", ft_name="ft:x")
    registry.close()
    again = Registry.open(registry.home)
    assert again.resolve("tiny+sql").adapters == ((version, 1.0),)
    assert again.bases() == [base]


def test_peft_files_travel_and_optimizer_states_do_not(
    registry: Registry, base: Base, tmp_path: Path
) -> None:
    peft = tmp_path / "peft"
    peft.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "trainer_state.pt"):
        (peft / name).write_bytes(b"x")
    gguf = random_lora(base.path, tmp_path / "a.gguf", seed=1)
    manifest = check_lora(gguf, read_header(base.path))
    version = registry.add_adapter(base, "a", gguf, manifest, peft_dir=peft)
    kept = {path.name for path in (version.directory / "peft").iterdir()}
    assert kept == {"adapter_config.json", "adapter_model.safetensors"}


def test_the_same_content_again_is_no_new_version(registry: Registry, base: Base, tmp_path: Path) -> None:
    gguf = random_lora(base.path, tmp_path / "a.gguf", seed=1)
    manifest = check_lora(gguf, read_header(base.path))
    first = registry.add_adapter(base, "a", gguf, manifest)
    assert registry.add_adapter(base, "a", gguf, manifest) == first
    assert registry.add_adapter(base, "b", gguf, manifest).version == 1
    named = registry.add_adapter(base, "a", gguf, manifest, ft_name="ft:a")
    assert named.version == 2
    assert registry.add_adapter(base, "a", gguf, manifest, ft_name="ft:a", deploy=False) == named


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_records_nothing(
    registry: Registry, base: Base, add: Adder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    kept = add(base, "sql")

    def full(*_: Any) -> None:
        raise OSError(code, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(blobs, "copy_synced", full)
        with pytest.raises(StorageFull, match="nothing was recorded"):
            add(base, "sql")
    assert registry.adapters() == [kept]
    assert sorted(path.name for path in kept.directory.parent.iterdir()) == ["1"]
    assert add(base, "sql").version == 2


def test_a_record_that_fails_leaves_no_files(registry: Registry, base: Base, add: Adder) -> None:
    kept = add(base, "sql")
    version = add(base, "sql")
    gguf = shutil.copy(version.path, registry.home / "copy.gguf")
    registry.delete("sql@2")

    def fails(version: AdapterVersion) -> None:
        assert version.path.exists()
        raise StorageFull("no space")

    with pytest.raises(StorageFull):
        registry.add_adapter(base, "sql", Path(gguf), version.manifest, also=fails)
    assert registry.adapters() == [kept]
    assert sorted(path.name for path in kept.directory.parent.iterdir()) == ["1"]


def test_names_that_the_disk_does_not_tell_apart(registry: Registry, base: Base, add: Adder) -> None:
    kept = add(base, "sql")
    folder = registry.home / "adapters"
    (folder / "SQL").symlink_to(folder / "sql")  # as a disk has it that ignores the case of letters
    with pytest.raises(Conflict, match="'SQL' from 'sql'"):
        add(base, "SQL")
    assert sha256_file(kept.path) == kept.key
    assert registry.adapters() == [kept]


def test_what_a_crash_left_before_the_record_is_replaced(registry: Registry, base: Base, add: Adder) -> None:
    left = registry.home / "adapters" / "sql" / "1"
    left.mkdir(parents=True)
    (left / "adapter.gguf").write_bytes(b"half")
    (left.parent / ".1.tmp").mkdir()
    version = add(base, "sql")
    assert version.version == 1
    assert sha256_file(version.path) == version.key
    assert not (left.parent / ".1.tmp").exists()


def test_deleting_retires_and_numbers_are_never_used_again(
    registry: Registry, base: Base, add: Adder
) -> None:
    first, second = add(base, "sql"), add(base, "sql", ft_name="ft:sql")
    with first.path.open("rb") as running:
        retired = registry.delete("tiny+sql@1")
        assert running.read(4) == b"GGUF"  # a running stream keeps what it has open
    assert [(v.version, v.state) for v in retired] == [(1, "retired")]
    assert not first.path.exists()
    assert registry.resolve("tiny+sql").adapters == ((second, 1.0),)
    assert registry.delete("ft:sql")
    for name in ("tiny+sql", "sql@2", "ft:sql"):
        with pytest.raises(ModelNotFound):
            registry.resolve(name)
    assert registry.adapters() == []
    assert add(base, "sql").version == 3
    for again in (registry.deploy, lambda version: registry.retire([version])):
        with pytest.raises(Conflict, match="never comes back"):
            again(first)


def test_a_base_cannot_be_deleted_as_an_adapter(registry: Registry, base: Base) -> None:
    with pytest.raises(ModelNotFound):
        registry.delete("tiny")


def test_refused_versions_answer_only_by_their_number(registry: Registry, base: Base, add: Adder) -> None:
    version = registry.undeployed(add(base, "sql", deploy=False), "worse than the base")
    with pytest.raises(ModelNotFound):
        registry.resolve("tiny+sql")
    assert registry.resolve("tiny+sql@1").adapters[0][0].reason == "worse than the base"
    registry.fail(version, "it does not load")
    with pytest.raises(AdapterRefused, match=r"`tiny\+sql@1` cannot be served: it does not load"):
        registry.resolve("tiny+sql@1")
    [failed] = registry.adapters()
    assert (failed.state, failed.reason) == ("failed", "it does not load")


def test_the_manifest_may_learn_but_not_change_content(registry: Registry, base: Base, add: Adder) -> None:
    version = add(base, "sql")
    learnt = msgspec.structs.replace(version.manifest, evaluation={"loss": 1.5})
    registry.set_manifest(version, learnt)
    assert registry.resolve("tiny+sql").adapters[0][0].manifest.evaluation == {"loss": 1.5}
    assert read_manifest(version.directory / "manifest.json").evaluation == {"loss": 1.5}
    with pytest.raises(ValueError, match="content"):
        registry.set_manifest(version, msgspec.structs.replace(learnt, sha256="0"))


def test_threads_get_versions_of_their_own(registry: Registry, base: Base, tmp_path: Path) -> None:
    ggufs = [random_lora(base.path, tmp_path / f"{n}.gguf", seed=n) for n in range(6)]
    manifests = [check_lora(gguf, read_header(base.path)) for gguf in ggufs]
    threads = [
        threading.Thread(target=registry.add_adapter, args=(base, "sql", gguf, manifest))
        for gguf, manifest in zip(ggufs, manifests, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(version.version for version in registry.adapters()) == [1, 2, 3, 4, 5, 6]
    assert len({version.key for version in registry.adapters()}) == 6


def test_a_name_that_is_no_directory_is_refused(registry: Registry, base: Base, add: Adder) -> None:
    with pytest.raises(BadRequest):
        registry.add_adapter(base, "../../etc", base.path, add(base, "ok").manifest)


def test_entries_describe_any_form_of_a_name(registry: Registry, base: Base, add: Adder) -> None:
    add(base, "a", ft_name="ft:tiny:local:a:1")
    newer = add(base, "a")
    entry = registry.entry("tiny+a")
    assert (entry.id, entry.parent, entry.version, entry.versions) == ("tiny+a", "tiny", 2, (1, 2))
    assert entry.root == str(newer.path)
    assert registry.entry("a@1").version == 1
    assert registry.entry("ft:tiny:local:a:1").ft_name == "ft:tiny:local:a:1"
    assert registry.entry("tiny+a*0.5+a@1*0.5").parent == "tiny"
    assert registry.entry("tiny").parent is None
