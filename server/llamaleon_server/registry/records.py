"""What the registry hands out: frozen facts about bases, adapters and what a name means."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from llamaleon_convert.manifest import BaseFingerprint, Manifest
from llamaleon_server.chat.ask import PLAIN, Preset

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
    missing: bool = False  # the file is gone: listed, refused at use


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
    created: int
    owned_by: str = "llamaleon"
    root: str = ""  # path of the file
    parent: str | None = None  # the base of an adapter
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
