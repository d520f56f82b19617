"""What a pull says while it runs, and what it was asked for."""

from __future__ import annotations

from msgspec import Struct

SUCCESS = "success"


class Progress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a pull. `status` are the words of Ollama's `/api/pull`; the last one's is "success".

    While bytes come, `status` is "pulling 0a1b2c3d4e5f" with `digest`, `total` and `completed`, again and
    again; of a file that lies here already, once and complete. `note` is a sentence for people: which
    quantisation was chosen and why. `model` comes with "success": the name that answers from now on.
    """

    status: str
    file: str | None = None
    digest: str | None = None  # sha256:HEX
    total: int | None = None  # bytes of this file
    completed: int | None = None
    note: str | None = None
    model: str | None = None


class Source(Struct, frozen=True, kw_only=True):
    """Where to ask, beyond the name itself.

    A token of this server is never sent to a mirror that a request names: `token` goes with `mirror`.
    """

    token: str | None = None
    mirror: str | None = None  # URL, in place of the public hub or registry


PUBLIC = Source()
