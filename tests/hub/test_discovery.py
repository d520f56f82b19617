"""Models in the folders of other programs: fake folders, made here, never the real ones."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import pytest
from tests.hub.models import small_model, split
from tests.hub.serving import sha256

from llamaleon_server.hub.discovery import Discovery
from llamaleon_server.registry.registry import Registry


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return small_model(tmp_path / "m")


class Folders:
    """What the other programs have."""

    def __init__(self, home: Path, own: Path) -> None:
        self.home = home
        self.own = own / "models"

    def ollama(self, name: str, layers: dict[str, bytes], host: str = "registry.ollama.ai") -> Path:
        """`name` as NAMESPACE/NAME/TAG. Returns the manifest."""
        store = self.home / ".ollama" / "models"
        (store / "blobs").mkdir(parents=True, exist_ok=True)
        listed = []
        for kind, content in layers.items():
            digest = sha256(content)
            (store / "blobs" / f"sha256-{digest}").write_bytes(content)
            media = f"application/vnd.ollama.image.{kind}"
            listed.append({"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)})
        manifest = store / "manifests" / host / name
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps({"schemaVersion": 2, "layers": listed}))
        return manifest

    def hub(self, repo: str, files: dict[str, bytes], commit: str = "c" * 40) -> Path:
        folder = self.home / "hf" / "hub" / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        for path, content in files.items():
            blob = folder / "blobs" / sha256(content)
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(content)
            link = folder / "snapshots" / commit / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        return folder / "snapshots" / commit

    def lm_studio(self, repo: str, files: dict[str, bytes], folder: str = ".lmstudio/models") -> Path:
        target = self.home / folder / repo
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (target / name).write_bytes(content)
        return target

    def state(self) -> dict[str, tuple[int, int]]:
        """Every file there is, with its size and time."""
        found = {}
        for path in self.home.rglob("*"):
            stat = path.lstat()
            found[str(path)] = (stat.st_size, stat.st_mtime_ns)
        return found


@pytest.fixture
def folders(own_folders: Path, tmp_path: Path) -> Folders:
    return Folders(own_folders, tmp_path / "home")


@pytest.fixture
def discovery(registry: Registry) -> Discovery:
    return Discovery(registry)


async def test_everything_by_name_in_place_and_untouched(
    registry: Registry, folders: Folders, discovery: Discovery, model: bytes
) -> None:
    folders.ollama("library/tiny/1b", {"model": model, "system": b"Be brief."})
    folders.ollama("somebody/tiny/latest", {"model": model})
    folders.ollama("o/r/Q8_0", {"model": model}, host="hf.co")
    snapshot = folders.hub("o/Tiny-GGUF", {"tiny-Q4_K_M.gguf": model, "sub/a.gguf": model, "README.md": b"#"})
    lm = folders.lm_studio("someone/Other-GGUF", {"other-Q8_0.gguf": model})
    old = folders.lm_studio("someone/Old", {"old.gguf": model}, ".cache/lm-studio/models")
    folders.own.mkdir(parents=True, exist_ok=True)
    (folders.own / "mine.gguf").write_bytes(model)
    before = folders.state()
    await discovery.refresh()
    blob = folders.home / ".ollama" / "models" / "blobs" / f"sha256-{sha256(model)}"
    assert {base.name: (base.found_in, base.path) for base in registry.bases()} == {
        "tiny:1b": ("ollama", blob),
        "somebody/tiny": ("ollama", blob),
        "hf.co/o/r:Q8_0": ("ollama", blob),
        "o/Tiny-GGUF:Q4_K_M": ("huggingface", snapshot / "tiny-Q4_K_M.gguf"),
        "o/Tiny-GGUF/sub/a.gguf": ("huggingface", snapshot / "sub" / "a.gguf"),
        "someone/Other-GGUF:Q8_0": ("lm-studio", lm / "other-Q8_0.gguf"),
        "someone/Old/old.gguf": ("lm-studio", old / "old.gguf"),
        "mine": ("llamaleon", folders.own / "mine.gguf"),
    }
    assert registry.resolve("tiny:1b").preset.system == "Be brief."
    assert {entry.owned_by for entry in registry.listing()} == {
        "ollama",
        "huggingface",
        "lm-studio",
        "llamaleon",
    }
    assert folders.state() == before


@pytest.mark.parametrize("home", [".lmstudio", ".cache/lm-studio", "moved"])
async def test_lm_studios_own_settings_say_where(
    registry: Registry, folders: Folders, discovery: Discovery, model: bytes, home: str
) -> None:
    folders.lm_studio("a/b", {"c-Q8_0.gguf": model}, "elsewhere")
    settings = folders.home / home / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"downloadsFolder": str(folders.home / "elsewhere")}))
    if home == "moved":
        (folders.home / ".lmstudio-home-pointer").write_text(str(folders.home / home))
    await discovery.refresh()
    assert registry.base_names() == ["a/b:Q8_0"]


async def test_what_comes_changes_and_goes(
    registry: Registry, folders: Folders, discovery: Discovery, model: bytes, tmp_path: Path
) -> None:
    manifest = folders.ollama("library/tiny/1b", {"model": model, "system": b"Be brief."})
    await discovery.refresh()
    first = registry.resolve("tiny:1b")
    another = small_model(tmp_path / "n", seed=7)
    folders.ollama("library/tiny/1b", {"model": another, "system": b"Be long."})
    os.utime(manifest, ns=(1, time.time_ns() + 10**9))
    await discovery.refresh()
    second = registry.resolve("tiny:1b")
    assert second.base.path != first.base.path
    assert second.preset.system == "Be long."
    manifest.unlink()
    await discovery.refresh()
    assert registry.base_names() == []
    assert registry.made_models() == []


async def test_nothing_is_done_twice(
    registry: Registry, folders: Folders, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.ollama("library/tiny/1b", {"model": model, "system": b"Be brief."})
    folders.lm_studio("a/b", {"c-Q8_0.gguf": model, "bad-Q4_0.gguf": b"GGUF not really"})
    discovery = Discovery(registry)
    await discovery.refresh()
    monkeypatch.setattr(registry, "add_base", lambda *_, **__: pytest.fail("added again"))
    await discovery.refresh()
    assert sorted(registry.base_names()) == ["a/b:Q8_0", "tiny:1b"]


async def test_a_broken_file_costs_one_line(
    registry: Registry,
    folders: Folders,
    discovery: Discovery,
    model: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folders.lm_studio("a/b", {"bad-Q8_0.gguf": b"PK no model", "good-Q4_0.gguf": model})
    folders.lm_studio("a/c", {"half-00001-of-00002.gguf": model})
    folders.ollama("library/broken/latest", {"license": b"MIT"})
    folders.ollama("library/odd/latest", {"model": model}).write_text("{")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await discovery.refresh()
    assert registry.base_names() == ["a/b:Q4_0"]
    lines = sorted(record.getMessage() for record in caplog.records)
    assert len(lines) == 4
    for line, words in zip(
        lines, ("bad-Q8_0.gguf", "half-00002-of-00002", "broken:latest", "odd:latest"), strict=True
    ):
        assert words in line


async def test_split_models_are_one(
    registry: Registry, folders: Folders, discovery: Discovery, model: bytes, tmp_path: Path
) -> None:
    source = tmp_path / "whole.gguf"
    source.write_bytes(model)
    target = folders.lm_studio("a/b", {})
    parts = split(source, target, "big-Q8_0", 3)
    await discovery.refresh()
    [base] = registry.bases()
    assert (base.name, base.path) == ("a/b:Q8_0", parts[0])
    assert base.bytes == sum(path.stat().st_size for path in parts)
    assert base.fingerprint == registry.add_base(source, "whole").fingerprint


async def test_names_that_somebody_gave_stay_theirs(
    registry: Registry, folders: Folders, discovery: Discovery, model: bytes, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(model)
    registry.add_base(mine, "tiny:1b")
    manifest = folders.ollama("library/tiny/1b", {"model": model})
    await discovery.refresh()
    manifest.unlink()
    await discovery.refresh()
    assert registry.base("tiny:1b").path == mine


async def test_what_was_removed_is_not_found_again(
    registry: Registry, folders: Folders, discovery: Discovery, model: bytes
) -> None:
    folder = folders.lm_studio("a/b", {"c-Q8_0.gguf": model})
    await discovery.refresh()
    registry.remove_base("a/b:Q8_0")
    await discovery.refresh()
    assert registry.base_names() == []
    registry.add_base(folder / "c-Q8_0.gguf", "again")
    registry.remove_base("again", hide=False)
    await discovery.refresh()
    assert registry.base_names() == ["a/b:Q8_0"]


async def test_switched_off_it_forgets(registry: Registry, folders: Folders, model: bytes) -> None:
    folders.lm_studio("a/b", {"c-Q8_0.gguf": model})
    await Discovery(registry).refresh()
    assert registry.base_names() == ["a/b:Q8_0"]
    await Discovery(registry, look=False).run()
    assert registry.base_names() == []


async def test_links_in_circles_and_closed_folders(
    registry: Registry, folders: Folders, discovery: Discovery, model: bytes
) -> None:
    folder = folders.lm_studio("a/b", {"c-Q8_0.gguf": model})
    (folder / "round").symlink_to(folder)
    (folder / "gone-Q4_0.gguf").symlink_to(folder / "nothing")
    (folders.home / ".ollama").mkdir()
    (folders.home / ".ollama" / "models").write_text("a file, not a folder")
    await discovery.refresh()
    assert registry.base_names() == ["a/b:Q8_0"]
