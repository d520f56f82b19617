"""What the client hands out. Fields that a newer server adds are ignored; `raw` keeps all of an answer."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

Json = dict[str, Any]
Record = TypeVar("Record", bound="Answer")
ENDED = ("succeeded", "failed", "cancelled")


class Answer(Struct, frozen=True, kw_only=True):
    """`raw`: the answer as the server gave it."""

    raw: Json = {}

    @classmethod
    def of(cls: type[Record], body: Json) -> Record:
        """Raises: msgspec.ValidationError if it is another kind of answer."""
        return msgspec.convert({**body, "raw": body}, cls)


class Model(Answer, frozen=True, kw_only=True):
    """A base model, or an adapter on one (then `parent` names the base). `created` in Unix seconds."""

    id: str
    created: int
    parent: str | None = None
    versions: list[int] = []
    missing: bool = False  # its file is gone


class Version(Struct, frozen=True, kw_only=True):
    """One version of an adapter; only a `deployed` one answers under the bare name."""

    version: int
    state: str  # registered, deployed, failed
    reason: str | None = None  # why it is not deployed
    rank: int | None = None
    pinned: bool = False


class Adapter(Answer, frozen=True, kw_only=True):
    """`evaluation`: held-out figures of the newest deployed version, empty if it was not trained here."""

    name: str
    base: str
    version: int | None = None
    versions: list[Version] = []
    fine_tuned_model: str | None = None

    @property
    def evaluation(self) -> Json:
        """E.g. {"base": {"loss": ..., "exact_match": ...}, "adapter": {...}, "parity": {...}}."""
        found: Json = (self.raw.get("manifest") or {}).get("evaluation") or {}
        return found


class Resident(Answer, frozen=True, kw_only=True):
    """A model in memory."""

    name: str
    state: str  # loading, ready
    running: int  # generations
    resident_bytes: int | None = None
    expires: float | None = None  # Unix seconds; None: never, or in use


class Failure(Struct, frozen=True, kw_only=True):
    code: str | None = None
    message: str = ""
    param: str | None = None


class Job(Answer, frozen=True, kw_only=True):
    """A fine-tuning job. `fine_tuned_model` is there once it has succeeded."""

    id: str
    status: str
    model: str
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    error: Failure | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Event(Answer, frozen=True, kw_only=True):
    """`data` has the figures of a step, of the proof of parity, or of the evaluation."""

    id: str
    created_at: int
    level: str  # info, warn, error
    message: str
    data: Json = {}


class Score(Struct, frozen=True, kw_only=True):
    """Greedy answers counted. `valid_json` None: the expected ones are no JSON objects."""

    rows: int
    exact: int
    valid_json: int | None
