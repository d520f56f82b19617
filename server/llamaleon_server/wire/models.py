"""Bodies for making and copying models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import decode

Text = Annotated[str, Meta(min_length=1)]


class Turn(Struct, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: str


class CreateModel(Struct, frozen=True, kw_only=True):
    """A Modelfile's text, or what would be in it as fields; `folder`: what its relative paths begin from."""

    name: Text
    modelfile: str | None = None
    folder: Text | None = None
    from_: Text | None = field(name="from", default=None)
    adapters: list[Text] = []  # as after ADAPTER: a file or a name, with `*weight` if not 1
    parameters: dict[str, Any] = {}
    system: str | None = None
    template: str | None = None
    messages: list[Turn] = []
    license: str | list[str] | None = None
    replace: bool = True

    @property
    def path(self) -> Path | None:
        return None if self.folder is None else Path(self.folder)


class CopyModel(Struct, frozen=True, kw_only=True):
    source: Text
    destination: Text
    replace: bool = True


def parse_create(body: bytes) -> CreateModel:
    """Raises: BadRequest naming the field."""
    asked = decode(body, CreateModel)
    if (asked.modelfile is None) == (asked.from_ is None):
        raise BadRequest("Give either `modelfile` or `from`.", param="modelfile")
    if asked.path is not None and not asked.path.is_absolute():
        raise BadRequest("`folder` must be an absolute path.", param="folder")
    return asked


def parse_copy(body: bytes) -> CopyModel:
    """Raises: BadRequest naming the field."""
    return decode(body, CopyModel)
