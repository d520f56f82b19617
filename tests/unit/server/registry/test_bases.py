"""Bases are references; what was read from a file is read once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.lora import random_lora
from tests.unit.server.registry.small import write_base

from llamaleon_server.errors import BadRequest, Conflict, ModelNotFound, NotFound
from llamaleon_server.registry import bases
from llamaleon_server.registry.records import Base
from llamaleon_server.registry.registry import Registry


def test_the_name_is_the_stem_and_the_file_stays_where_it_is(registry: Registry, tmp_path: Path) -> None:
    path = write_base(tmp_path / "qwen2.5:0.5b.gguf", template="{{ messages }}")
    base = registry.add_base(path)
    assert (base.name, base.path, base.architecture) == ("qwen2.5:0.5b", path, "llama")
    assert (base.bos_token, base.eos_token, base.n_ctx_train) == ("<s>", "</s>", 64)
    assert (base.chat_template, base.weight_type, base.missing) == ("{{ messages }}", "F32", False)
    assert list((registry.home / "models").iterdir()) == []


def test_a_restart_does_not_read_the_file_again(
    registry: Registry, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(path: Path) -> None:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(bases, "read_facts", unread)
    again = Registry.open(registry.home)
    assert again.add_base(base.path) == base
    assert again.bases() == [base]
    again.close()


def test_a_changed_file_is_read_again(registry: Registry, base: Base) -> None:
    write_base(base.path, seed=3)
    changed = registry.base("tiny")
    assert changed.fingerprint != base.fingerprint
    assert changed.fingerprint.tokenizer_sha256 == base.fingerprint.tokenizer_sha256


def test_a_name_belongs_to_one_file(registry: Registry, base: Base, tmp_path: Path) -> None:
    other = write_base(tmp_path / "other.gguf", seed=2)
    with pytest.raises(Conflict, match=r"already .*tiny\.gguf"):
        registry.add_base(other, "tiny")
    moved = tmp_path / "moved.gguf"
    shutil.move(base.path, moved)
    assert registry.add_base(moved, "tiny").path == moved  # the old file is gone: the name may follow


def test_removing_forgets_the_name_only(registry: Registry, base: Base) -> None:
    registry.remove_base("tiny")
    assert base.path.exists()
    with pytest.raises(ModelNotFound):
        registry.base("tiny")
    with pytest.raises(NotFound):
        registry.remove_base("tiny")
    assert registry.add_base(base.path).fingerprint == base.fingerprint


def test_what_cannot_be_a_base_says_why(registry: Registry, base: Base, tmp_path: Path) -> None:
    lora = random_lora(base.path, tmp_path / "lora.gguf", seed=1)
    with pytest.raises(BadRequest, match="llamaleon add"):
        registry.add_base(lora)
    pointer = tmp_path / "pointer.gguf"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadRequest, match="Git LFS"):
        registry.add_base(pointer)
    with pytest.raises(BadRequest, match="No such file"):
        registry.add_base(tmp_path / "nothing.gguf")
    assert [known.name for known in registry.bases()] == ["tiny"]


def test_a_file_that_broke_is_missing_with_its_last_facts(registry: Registry, base: Base) -> None:
    base.path.write_bytes(b"GGUF")
    [broken] = registry.bases()
    assert broken.missing
    assert broken.fingerprint == base.fingerprint
