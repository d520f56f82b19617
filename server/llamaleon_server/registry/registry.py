"""The registry: names, versions, files and jobs behind one door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llamaleon_convert.manifest import Manifest
from llamaleon_server.errors import ModelNotFound
from llamaleon_server.registry.adapters import AdapterStore
from llamaleon_server.registry.bases import BaseStore
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.files import FileStore
from llamaleon_server.registry.jobstore import JobStore
from llamaleon_server.registry.names import check_adapter_name
from llamaleon_server.registry.pins import PinStore
from llamaleon_server.registry.records import DEPLOYED, REGISTERED, AdapterVersion, Base, ModelEntry, Target
from llamaleon_server.registry.resolve import Resolver, refuse_other_base
from llamaleon_server.registry.watched import WatchedStore


class Registry:
    """Synchronous and thread-safe. Calls that copy files (`add_adapter`) belong in a thread."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.db = Database(home / "llamaleon.db")
        self._bases = BaseStore(self.db)
        self._adapters = AdapterStore(self.db, home / "adapters")
        self._resolver = Resolver(self._bases, self._adapters)
        self.files = FileStore(self.db, home / "files")
        self.jobs = JobStore(self.db, home / "jobs")
        self.watched = WatchedStore(self.db)
        self._pins = PinStore(self.db, self._adapters)

    @classmethod
    def open(cls, home: Path) -> Registry:
        home = home.expanduser().absolute()
        for folder in ("models", "adapters", "files", "jobs"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        return cls(home)

    def sweep(self) -> None:
        """Remove what died with an earlier process. Only for the server that holds the lock of this home."""
        self.files.sweep()
        self._adapters.sweep()

    def close(self) -> None:
        self.db.close()

    # ------------------------------------------------------------ bases

    def add_base(self, path: Path, name: str | None = None) -> Base:
        """Register a GGUF in place; reads it unless its facts are known (then instant, whatever its size)."""
        return self._bases.add(path, name)

    def bases(self) -> list[Base]:
        return self._bases.all()

    def base(self, name: str) -> Base:
        """Raises: ModelNotFound."""
        found = self._bases.get(name)
        if found is None:
            raise self._resolver.unknown(name)
        return found

    def remove_base(self, name: str) -> None:
        """Forget the name. The file stays, and so do the adapters: they answer again when it comes back."""
        self._bases.remove(name)

    # ------------------------------------------------------------ adapters

    def add_adapter(
        self,
        base: Base,
        name: str,
        gguf: Path,
        manifest: Manifest,
        *,
        deploy: bool = True,
        ft_name: str | None = None,
        peft_dir: Path | None = None,
        owned: bool = False,
        also: Callable[[AdapterVersion], None] | None = None,
    ) -> AdapterVersion:
        """A new version of `name`; content that is already the deployed one is no new version.

        `owned`: the file is in this home, nobody else writes to it, and it may be moved instead of copied.
        `also` runs in the transaction that records the version: both are recorded, or neither.

        Raises:
            AdapterRefused: made for another base; the message names the field that differs.
            BadRequest: not a name.
            StorageFull: nothing was recorded.
        """
        check_adapter_name(name)
        refuse_other_base(manifest, name, base)
        if ft_name is not None and (known := self._adapters.by_ft_name(ft_name)) is not None:
            return known
        latest = self._adapters.latest(base.name, name)
        if ft_name is None and deploy and latest is not None and latest.key == manifest.sha256:
            if also is not None:
                also(latest)
            return latest
        return self._adapters.add(
            base.name,
            name,
            gguf,
            manifest,
            state=DEPLOYED if deploy else REGISTERED,
            ft_name=ft_name,
            peft_dir=peft_dir,
            owned=owned,
            also=also,
        )

    def deploy(self, version: AdapterVersion) -> AdapterVersion:
        """From now on `BASE+NAME` means the highest deployed version; running streams keep theirs."""
        return self._adapters.set_state(version, DEPLOYED)

    def undeployed(self, version: AdapterVersion, reason: str) -> AdapterVersion:
        """Record why a registered version is not deployed; it still answers by its version or ft: name."""
        return self._adapters.set_state(version, version.state, reason)

    def fail(self, version: AdapterVersion, reason: str) -> AdapterVersion:
        return self._adapters.fail(version, reason)

    def set_manifest(self, version: AdapterVersion, manifest: Manifest) -> AdapterVersion:
        return self._adapters.set_manifest(version, manifest)

    def delete(self, model: str) -> list[AdapterVersion]:
        """Retire every version that the name stands for and remove their files; returns them.

        Raises:
            ModelNotFound: it names no adapter.
        """
        return self._adapters.retire(self._resolver.versions(model), self._pins.sweep)

    def retire(self, versions: Sequence[AdapterVersion], also: Callable[[], None] | None = None) -> None:
        """As `delete`; `also` runs in the transaction that records it."""

        def recorded() -> None:
            self._pins.sweep()
            if also is not None:
                also()

        self._adapters.retire(versions, recorded)

    def adapters(self) -> list[AdapterVersion]:
        """Every version that is not retired, in the order of registration."""
        return self._adapters.all()

    def versions(self, model: str) -> list[AdapterVersion]:
        """Servable versions that a name stands for, oldest first. Raises: ModelNotFound."""
        return self._resolver.versions(model)

    def deployed(self, base: str, name: str) -> AdapterVersion | None:
        return self._adapters.latest(base, name)

    def by_ft_name(self, ft_name: str) -> AdapterVersion | None:
        return self._adapters.by_ft_name(ft_name)

    def adapter_keys(self) -> set[str]:
        """Contents that a name stands for."""
        return {key for key, _ in self._adapters.names()}

    def adapter_names(self, base: str) -> dict[str, str]:
        """Content key -> `BASE+NAME@VERSION`; of several names of one content, the newest."""
        return dict(self._adapters.names(base))

    def adapter_refused(self, version: AdapterVersion, reason: str) -> bool:
        """The engine refused it: from now on it is not served. False if it no longer was."""
        return self._adapters.refuse(version, reason)

    # ------------------------------------------------------------ pins

    def pin(self, model: str) -> AdapterVersion:
        """Remember that an adapter shall stay in the bank. `BASE+NAME`: whichever version is deployed.

        Raises: ModelNotFound, BadRequest if it is no adapter.
        """
        version, number = self._resolver.adapter(model)
        self._pins.add(version.base, version.adapter, number)
        return version

    def unpin(self, model: str) -> None:
        """Raises: NotFound if it is not pinned."""
        fine_tuned = self._adapters.by_ft_name(model)
        if fine_tuned is not None:
            self._pins.remove(fine_tuned.base, fine_tuned.adapter, fine_tuned.version)
            return
        base, part = self._resolver.written(model)
        self._pins.remove(base, part.adapter, part.version)

    def pinned(self, base: str | None = None) -> list[AdapterVersion]:
        """Versions that shall stay in the bank."""
        return self._pins.versions(base)

    # ------------------------------------------------------------ names

    def resolve(self, model: str, lora: Sequence[dict[str, Any]] | None = None) -> Target:
        """What the `model` field means. Raises: ModelNotFound, BadRequest, AdapterRefused, NotFound."""
        return self._resolver.resolve(model, lora)

    def listing(self) -> list[ModelEntry]:
        """Bases, each followed by its deployed adapters."""
        entries = []
        for base in self.bases():
            entries.append(_base_entry(base))
            grouped: dict[str, list[AdapterVersion]] = {}
            for version in self._adapters.servable(base.name):
                grouped.setdefault(version.adapter, []).append(version)
            entries += [
                _adapter_entry(base, versions)
                for versions in grouped.values()
                if any(version.state == DEPLOYED for version in versions)
            ]
        return entries

    def entry(self, model: str) -> ModelEntry:
        """One model under the name asked for, in any of its forms. Raises: ModelNotFound."""
        target = self.resolve(model)
        if not target.adapters:
            return _base_entry(target.base)
        try:
            versions = self.versions(model)
        except ModelNotFound:  # a blend
            return ModelEntry(
                id=model, created=target.base.created, root=str(target.base.path), parent=target.base.name
            )
        return _adapter_entry(target.base, versions, name=model)


def _base_entry(base: Base) -> ModelEntry:
    return ModelEntry(
        id=base.name,
        created=base.created,
        root=str(base.path),
        chat_template=base.chat_template is not None,
        missing=base.missing,
    )


def _adapter_entry(base: Base, versions: list[AdapterVersion], name: str | None = None) -> ModelEntry:
    """`versions` oldest first; the entry describes the newest deployed one, else the newest."""
    newest = next((v for v in reversed(versions) if v.state == DEPLOYED), versions[-1])
    return ModelEntry(
        id=name or newest.model,
        created=newest.created,
        root=str(newest.path),
        parent=base.name,
        version=newest.version,
        versions=tuple(version.version for version in versions),
        ft_name=newest.ft_name,
        chat_template=base.chat_template is not None,
        missing=base.missing,
    )
