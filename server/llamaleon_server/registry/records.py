"""What the registry hands out: frozen facts about bases, adapters and what a name means."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from llamaleon_convert.manifest import BaseFingerprint, Manifest
from llamaleon_server.chat.ask import PLAIN, Preset
from llamaleon_server.registry.modelfile import Modelfile
from llamaleon_server.registry.names import Part

REGISTERED = "registered"  # known, not served under its bare name: ask for it by version or ft: name
DEPLOYED = "deployed"
RETIRED = "retired"  # its files are gone; the number is never used again
FAILED = "failed"


class BaseFacts(Struct, frozen=True, kw_only=True):
    """What is read once from a GGUF file and kept for as long as size and time of the file stay."""

    fingerprint: BaseFingerprint
    chat_template: str | None
    bos_token: str
    eos_token: str
    n_ctx_train: int
    weight_type: str  # of most weights: F32, F16, BF16, Q8_0, Q4_K, ...
    template_broken: bool = False  # it does not compile, which takes too long to be tried for every listing


class Base(Struct, frozen=True, kw_only=True):
    """A base model: a GGUF file that may belong to another program; never copied."""

    name: str
    path: Path
    architecture: str
    fingerprint: BaseFingerprint
    chat_template: str | None
    bos_token: str
    eos_token: str
    n_ctx_train: int
    bytes: int
    created: int
    weight_type: str = ""
    template_broken: bool = False
    projector: Path | None = None  # the mmproj file of a vision model
    found_in: str | None = None  # in whose folder it was found (ollama, hub, ...); None: registered
    missing: bool = False  # the file is gone: listed, refused at use

    @property
    def has_template(self) -> bool:
        """Else chats use the plain fallback."""
        return self.chat_template is not None and not self.template_broken


class AdapterVersion(Struct, frozen=True, kw_only=True):
    """One immutable version. `key` is the sha256 of `path`'s bytes."""

    adapter: str
    base: str
    version: int
    key: str
    path: Path
    state: str
    created: int
    ft_name: str | None
    manifest: Manifest
    reason: str | None = None  # why it failed or was not deployed

    @property
    def model(self) -> str:
        return f"{self.base}+{self.adapter}"

    @property
    def full_name(self) -> str:
        return f"{self.model}@{self.version}"

    @property
    def directory(self) -> Path:
        return self.path.parent


class MadeModel(Struct, frozen=True, kw_only=True):
    """A name for a base, adapters on it, and what goes with every chat; made of a Modelfile, or a copy.

    Its `modelfile` is whole: what it took from the model in FROM is written out, so that this one may go.
    An adapter without a version is whichever is deployed. Times are Unix seconds.
    """

    name: str
    base: str
    adapters: tuple[Part, ...] = ()
    parent: str  # what FROM named
    modelfile: Modelfile
    preset: Preset = PLAIN
    engine: dict[str, Any] = {}  # fields of EngineSettings that it wants of its base's engine
    notes: tuple[str, ...] = ()  # what of the Modelfile has no effect, and why
    created: int
    modified: int


class Target(Struct, frozen=True, kw_only=True):
    """What a request runs: a base and the adapters on it with their weights (dimensionless).

    Adapters are ordered by content key and distinct, so that a blend has one identity however it is written.
    """

    requested: str
    base: Base
    adapters: tuple[tuple[AdapterVersion, float], ...] = ()
    preset: Preset = PLAIN


class ModelEntry(Struct, frozen=True, kw_only=True):
    """One line of `GET /v1/models`."""

    id: str
    kind: Literal["base", "adapter", "made"] = "base"
    base: str  # itself, for a base
    created: int
    owned_by: str = "llamaleon"
    root: str = ""  # path of the file
    parent: str | None = None  # the base of an adapter or of a made model
    version: int | None = None
    versions: tuple[int, ...] = ()  # that can be asked for as NAME@VERSION
    ft_name: str | None = None
    chat_template: bool = True  # False: chats use the plain fallback
    missing: bool = False


class WatchedFile(Struct, frozen=True, kw_only=True):
    """What a file or directory of a watched folder became."""

    path: Path
    stamp: str  # sizes and times of the content that was taken
    name: str
    versions: tuple[int, ...] = ()  # that its successive contents became, oldest first
    reason: str | None = None  # set: its newest content failed
