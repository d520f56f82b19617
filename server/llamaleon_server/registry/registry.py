"""The registry: names, versions, files and jobs behind one door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UnsetType

from llamaleon_convert.manifest import Manifest
from llamaleon_convert.split import stem_of
from llamaleon_server.chat.ask import Preset
from llamaleon_server.errors import Conflict, ModelNotFound
from llamaleon_server.registry.adapters import AdapterStore
from llamaleon_server.registry.bases import BaseStore
from llamaleon_server.registry.batches import BatchStore
from llamaleon_server.registry.conversations import ConversationStore
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.deployments import Deployment
from llamaleon_server.registry.entries import adapter_entry, base_entry, made_entry
from llamaleon_server.registry.files import FileStore
from llamaleon_server.registry.jobstore import JobStore
from llamaleon_server.registry.keys import KeyStore
from llamaleon_server.registry.made import LATEST, MadeStore
from llamaleon_server.registry.names import check_adapter_name
from llamaleon_server.registry.pins import PinStore
from llamaleon_server.registry.presets import Presets
from llamaleon_server.registry.records import (
    DEPLOYED,
    REGISTERED,
    AdapterVersion,
    Base,
    MadeModel,
    ModelEntry,
    Target,
)
from llamaleon_server.registry.resolve import Resolver, Written, refuse_other_base
from llamaleon_server.registry.responses import ResponseStore
from llamaleon_server.registry.stored import StoredCompletions
from llamaleon_server.registry.watched import WatchedStore
from llamaleon_server.registry.webhooks import WebhookStore
from llamaleon_server.registry.wishes import EngineWishes
from llamaleon_server.settings import EngineSettings


class Registry:
    """Synchronous and thread-safe. Calls that copy files (`add_adapter`) belong in a thread."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.db = Database(home / "llamaleon.db")
        self._bases = BaseStore(self.db)
        self._adapters = AdapterStore(self.db, home / "adapters")
        self._made = MadeStore(self.db)
        self.presets = Presets(home / "models.yaml")
        self._wishes = EngineWishes(self._made, self.presets)
        self._resolver = Resolver(self._bases, self._adapters, self._made, self.presets)
        self.files = FileStore(self.db, home / "files")
        self.webhooks = WebhookStore(self.db)
        self.jobs = JobStore(self.db, home / "jobs", self.webhooks)
        self.responses = ResponseStore(self.db, self.webhooks)
        self.batches = BatchStore(self.db, home / "batches", self.webhooks)
        self.conversations = ConversationStore(self.db)
        self.stored = StoredCompletions(self.db)
        self.watched = WatchedStore(self.db)
        self.keys = KeyStore(self.db)
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

    def add_base(
        self,
        path: Path,
        name: str | None = None,
        *,
        projector: Path | None = None,
        found_in: str | None = None,
        replace: bool = False,
    ) -> Base:
        """Register a GGUF in place; reads it unless its facts are known (then instant, whatever its size).

        Args:
            path: of a split model, its first part.
            projector: the mmproj file of a vision model.
            found_in: whose folder it was found in, if nobody asked for it.
            replace: the name moves to this file although the one it has exists.

        Raises: BadRequest, Conflict if the name belongs to another file or to a made model.
        """
        name = name or stem_of(path)
        made = self._made.get(name)
        if made is not None and made.base != name:
            raise Conflict(
                f"`{name}` is a made model: register {path} under another name, or remove that one first.",
                param="name",
            )
        return self._bases.add(path, name, projector=projector, found_in=found_in, replace=replace)

    def base_names(self) -> list[str]:
        return self._bases.names()

    def bases(self) -> list[Base]:
        return self._bases.all()

    def base(self, name: str) -> Base:
        """Raises: ModelNotFound."""
        found = self._bases.get(name)
        if found is None:
            raise self._resolver.unknown(name)
        return found

    def hidden_files(self) -> set[Path]:
        """Of bases that were removed: they are not to be found again by themselves."""
        return self._bases.hidden()

    def remove_base(self, name: str, *, hide: bool = True) -> None:
        """Forget the name. The file stays, and so do the adapters: they answer again when it comes back.

        `hide`: where it lies among another program's models, it is not found again by itself.
        """
        self._bases.remove(name, hide=hide)
        made = self._made.get(name)
        if made is not None and made.base == name:  # what went with the base itself
            self._made.remove(name)

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
        """From now on `BASE+NAME` means this version; running streams keep theirs."""
        return self._adapters.set_state(version, DEPLOYED)

    def roll_back(self, model: str) -> tuple[AdapterVersion, AdapterVersion]:
        """Back to what was deployed before. Returns (the version that served, the one that serves now).

        Raises: ModelNotFound, BadRequest if it is no adapter, Conflict if nothing was deployed before.
        """
        version, _ = self._resolver.adapter(model)
        return self._adapters.roll_back(version.base, version.adapter)

    def named_version(self, model: str) -> tuple[AdapterVersion, int | None]:
        """The adapter that a name means, and its version if the name says which.

        Raises: ModelNotFound, BadRequest if it is no adapter, AdapterRefused if it failed.
        """
        return self._resolver.adapter(model)

    def serving(self, base: str | None = None) -> set[tuple[str, str, int]]:
        """(base, adapter, version): what every bare name of an adapter now means."""
        return self._adapters.deployments.all_serving(base)

    def deployments(self, base: str, name: str) -> list[Deployment]:
        """Every deployment of a name, oldest first."""
        return self._adapters.deployments.history(base, name)

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

    def has_adapter(self, name: str) -> bool:
        """Whether an adapter of that name, of any base, answers to it."""
        return any(version.state == DEPLOYED for version in self._adapters.servable(name=name))

    # ------------------------------------------------------------ made models; see models.py

    def made(self, name: str) -> MadeModel | None:
        """By its name; `:latest` may stand at its end."""
        return self._made.get(name) or self._made.get(name.removesuffix(LATEST))

    def made_models(self, base: str | None = None) -> list[MadeModel]:
        return self._made.all(base)

    def put_made(self, made: MadeModel) -> MadeModel:
        return self._made.put(made)

    def remove_made(self, name: str) -> bool:
        return self._made.remove(name)

    def engine_settings(self, base: str, default: EngineSettings) -> EngineSettings:
        """What the engine of a base is to be started with; `default` are the server's own settings."""
        return self._wishes.settings(base, default)

    def keep_alive(self, base: str) -> float | UnsetType | None:
        """What the presets file says: seconds, None for ever, UNSET for nothing."""
        return self._wishes.keep_alive(base)

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
        base, part = self._resolver.written_adapter(model)
        self._pins.remove(base, part.adapter, part.version)

    def pinned(self, base: str | None = None) -> list[AdapterVersion]:
        """Versions that shall stay in the bank."""
        return self._pins.versions(base)

    # ------------------------------------------------------------ names

    def lora_ids(self, base: Base) -> list[AdapterVersion]:
        """What the numbers in a request's `lora` mean."""
        return self._resolver.lora_ids(base.name)

    def resolve(self, model: str, lora: Sequence[dict[str, Any]] | None = None) -> Target:
        """What the `model` field means. Raises: ModelNotFound, BadRequest, AdapterRefused, NotFound."""
        return self._resolver.resolve(model, lora)

    def preset(self, model: str) -> Preset:
        """What goes with every chat with it, also where it cannot be served. Raises: as `written`."""
        return self._resolver.preset(self._resolver.written(model))

    def written(self, model: str) -> Written:
        """A name taken apart. Raises: ModelNotFound, BadRequest, AdapterRefused."""
        return self._resolver.written(model)

    def listing(self) -> list[ModelEntry]:
        """Bases, each followed by its deployed adapters and by what was made of it."""
        entries = []
        for base in self.bases():
            entries.append(base_entry(base))
            serving = {name: number for _, name, number in self._adapters.deployments.all_serving(base.name)}
            grouped: dict[str, list[AdapterVersion]] = {}
            for version in self._adapters.servable(base.name):
                grouped.setdefault(version.adapter, []).append(version)
            entries += [
                adapter_entry(base, versions, serving.get(name))
                for name, versions in grouped.items()
                if any(version.state == DEPLOYED for version in versions)
            ]
            entries += [
                made_entry(made, base) for made in self._made.all(base.name) if made.name != base.name
            ]
        return entries

    def entry(self, model: str) -> ModelEntry:
        """One model under the name asked for, in any of its forms. Raises: ModelNotFound."""
        target = self.resolve(model)
        made = self._resolver.written(model).made
        if made is not None and made.name != made.base:
            return msgspec.structs.replace(made_entry(made, target.base), id=model)
        if not target.adapters or model == target.base.name:
            return msgspec.structs.replace(base_entry(target.base), id=model)
        try:
            versions = self.versions(model)
        except ModelNotFound:  # a blend
            return ModelEntry(
                id=model,
                kind="adapter",
                base=target.base.name,
                created=target.base.created,
                root=str(target.base.path),
                parent=target.base.name,
            )
        serving = self._adapters.deployments.serving(target.base.name, versions[-1].adapter)
        return adapter_entry(target.base, versions, serving, name=model)
