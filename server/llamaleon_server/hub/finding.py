"""Models that lie on this disk already: in Ollama's, LM Studio's and the hub's folders, and in our own.

Only looks; nothing in those folders is ever written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from llamaleon_convert.split import stem_of
from llamaleon_server.errors import LlamaleonError
from llamaleon_server.hub import places
from llamaleon_server.hub.names import OllamaName
from llamaleon_server.hub.ollama import Store, StoredModel
from llamaleon_server.hub.quants import RepoFile, Variant, name_within, projector_of, variants_of

log = logging.getLogger(__name__)

DEEPEST = 6  # folders below a models folder


class Finder:
    """Looks again and again; what it read of a manifest is kept for as long as that stays."""

    def __init__(self, home: Path) -> None:
        self._own = home / "models"
        self._manifests: dict[Path, tuple[int, StoredModel | None]] = {}
        self._said: set[str] = set()

    def find(self) -> dict[str, tuple[str, StoredModel]]:
        """Name -> (whose folder, model). Of two of one name the first counts."""
        found: dict[str, tuple[str, StoredModel]] = {}
        for whose, models in (
            ("llamaleon", self._in_own_folder()),
            ("huggingface", self._in_hub_cache()),
            ("ollama", self._in_ollama()),
            ("lm-studio", self._in_lm_studio()),
        ):
            for model in models:
                found.setdefault(model.name, (whose, model))
        return found

    def say(self, sentence: str) -> None:
        """Once, however often it is found again."""
        if sentence not in self._said:
            self._said.add(sentence)
            log.warning("%s", sentence)

    def _in_own_folder(self) -> Iterator[StoredModel]:
        for variant, projector in self._whole(self._own):
            name = (Path(variant.path).parent / stem_of(Path(variant.path))).as_posix()
            yield StoredModel(name=name, path=self._own / variant.path, projector=projector)

    def _in_hub_cache(self) -> Iterator[StoredModel]:
        for folder in _folders(places.hub_cache(), "models--*"):
            owner, _, repo = folder.name.removeprefix("models--").partition("--")
            snapshot = _snapshot(folder)
            if repo and snapshot is not None:
                yield from self._repository(snapshot, f"{owner}/{repo}")

    def _in_lm_studio(self) -> Iterator[StoredModel]:
        for models in places.lm_studio_folders():
            for folder in _folders(models, "*/*"):
                yield from self._repository(folder, f"{folder.parent.name}/{folder.name}")

    def _repository(self, folder: Path, repo: str) -> Iterator[StoredModel]:
        """Names as `pull` gives them."""
        whole = self._whole(folder)
        for variant, projector in whole:
            name = name_within(repo, variant, [one for one, _ in whole])
            yield StoredModel(name=name, path=folder / variant.path, projector=projector)

    def _whole(self, folder: Path) -> list[tuple[Variant, Path | None]]:
        """The models below a folder of which no part is missing, each with its projector."""
        files = list(_gguf_files(folder))
        whole = []
        for variant in variants_of(files):
            if variant.missing:
                self.say(f"{folder / variant.path} is not served: {variant.missing} is missing")
                continue
            projector = projector_of(files, variant)
            whole.append((variant, None if projector is None else folder / projector.path))
        return whole

    def _in_ollama(self) -> Iterator[StoredModel]:
        for folder in places.ollama_stores():
            store = Store(folder)
            for name, manifest in store.names():
                model = self._read(store, name, manifest)
                if model is not None:
                    yield model

    def _read(self, store: Store, name: OllamaName, manifest: Path) -> StoredModel | None:
        try:
            changed = manifest.stat().st_mtime_ns
            if self._manifests.get(manifest, (0, None))[0] != changed:
                self._manifests[manifest] = (changed, None)
                self._manifests[manifest] = (changed, store.read(name, manifest))
        except (LlamaleonError, OSError) as error:
            self.say(f"Ollama's {name} is not served: {error}")
        return self._manifests.get(manifest, (0, None))[1]


def _snapshot(folder: Path) -> Path | None:
    """The files of a repository as its main branch stood when it was fetched last, else any."""
    references = folder / "refs"
    try:
        for reference in sorted(references.iterdir(), key=lambda path: (path.name != "main", path.name)):
            if reference.is_file():
                commit = reference.read_text(encoding="utf-8").strip()
                if commit and (folder / "snapshots" / commit).is_dir():
                    return folder / "snapshots" / commit
    except (OSError, UnicodeDecodeError):  # fetched by its commit alone: it has no names of branches
        pass
    snapshots = _folders(folder / "snapshots", "*")
    return max(snapshots, key=lambda path: path.stat().st_mtime_ns, default=None)


def _folders(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(path for path in folder.glob(pattern) if path.is_dir())
    except OSError:  # not ours to read
        return []


def _gguf_files(folder: Path) -> Iterator[RepoFile]:
    """Below `folder`, with links followed to files but not to folders: those may lead round in circles."""
    for at, folders, files in os.walk(folder):
        here = Path(at).relative_to(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(here.parts) >= DEEPEST:
            folders.clear()
        for name in sorted(files):
            if name.endswith(".gguf") and not name.startswith("."):
                path = Path(at) / name
                try:
                    size = path.stat().st_size
                except OSError:  # a link to what is gone
                    continue
                yield RepoFile(path=(here / name).as_posix(), size=size)
