"""Ollama's routes about models: what is asked, and the objects that show a model."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import is_set, refuse
from llamaleon_server.wire.ollama.messages import Message

LATEST = ":latest"
# Of create: what would make another model than this server can.
UNMADE = {
    "quantize": "convert the model with llama.cpp's `llama-quantize`, and create from the result.",
    "quantization": "convert the model with llama.cpp's `llama-quantize`, and create from the result.",
    "renderer": "a prompt is rendered by the model's own template.",
    "parser": "answers are read by what the model's template shows.",
    "draft_files": "guesses come from the prompt, not from a second model.",
    "remote_host": "models run here.",
    "path": "send the Modelfile itself, as `modelfile`.",
}


# Of create: what a `modelfile` says itself.
BESIDE = ("from_", "files", "adapters", "template", "license", "system", "parameters", "messages")


class Named(Struct, frozen=True, kw_only=True):
    """`name` is the older word for `model`."""

    model: str | None = None
    name: str | None = None

    def wanted(self) -> str:
        """Raises: BadRequest."""
        found = self.model or self.name
        if not found:
            raise BadRequest("`model` is required.", param="model")
        return found


class ShowRequest(Named, frozen=True, kw_only=True):
    verbose: bool | None = None


class CopyRequest(Struct, frozen=True, kw_only=True):
    source: str
    destination: str


class PullRequest(Named, frozen=True, kw_only=True):
    """`username` and `password`, which Ollama ignores too, are ignored."""

    insecure: bool | None = None
    stream: bool | None = None


class CreateRequest(Named, frozen=True, kw_only=True, rename={"from_": "from"}):
    """`modelfile` is the older way to say everything at once. `requires` is ignored."""

    from_: str | None = None
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str | None = None
    license: str | list[str] | None = None
    system: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[Message] | None = None
    modelfile: str | None = None
    stream: bool | None = None

    # Refused by name: see UNMADE.
    quantize: str | None = None
    quantization: str | None = None
    renderer: str | None = None
    parser: str | None = None
    draft_files: dict[str, str] | None = None
    remote_host: str | None = None
    path: str | None = None

    def check(self) -> None:
        """Raises: BadRequest naming the field."""
        for param, why in UNMADE.items():
            if is_set(getattr(self, param)) and getattr(self, param) != "":
                raise refuse(param, why)
        beside = [name for name in BESIDE if is_set(getattr(self, name))]
        if self.modelfile and beside:
            raise BadRequest(f"`modelfile` says all, without `{beside[0].strip('_')}`.", param="modelfile")
        if not (self.from_ or self.files or self.modelfile):
            raise BadRequest("`from` or `files` is required.", param="from")

    def licenses(self) -> tuple[str, ...]:
        return (self.license,) if isinstance(self.license, str) else tuple(self.license or ())

    def turns(self) -> tuple[tuple[str, str], ...]:
        return tuple((message.role.lower(), message.content or "") for message in self.messages or ())


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of what create or pull does."""

    status: str
    digest: str | None = None
    total: int | None = None
    completed: int | None = None


class Details(Struct, frozen=True, kw_only=True):
    parent_model: str = ""
    format: str = "gguf"
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(Struct, frozen=True, kw_only=True):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class ModelList(Struct, frozen=True, kw_only=True):
    models: list[ListedModel]


class LoadedModel(Struct, frozen=True, kw_only=True):
    name: str
    model: str
    size: int
    size_vram: int
    digest: str
    details: Details
    expires_at: str
    context_length: int


class LoadedList(Struct, frozen=True, kw_only=True):
    models: list[LoadedModel]


class ShownMessage(Struct, frozen=True, kw_only=True):
    role: str
    content: str


class Shown(Struct, frozen=True, kw_only=True):
    license: str | UnsetType = UNSET
    modelfile: str
    parameters: str | UnsetType = UNSET
    template: str
    system: str | UnsetType = UNSET
    details: Details
    messages: list[ShownMessage] | UnsetType = UNSET
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


def tagged(name: str) -> str:
    """As Ollama lists names: every one with a tag.

    >>> tagged("nano"), tagged("qwen2.5:0.5b"), tagged("hf.co/a/b"), tagged("nano+sql")
    ('nano:latest', 'qwen2.5:0.5b', 'hf.co/a/b:latest', 'nano+sql:latest')
    """
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def human_count(number: int) -> str:
    """As Ollama writes parameter counts.

    >>> human_count(7_615_616_512), human_count(494_032_768), human_count(260_032), human_count(12)
    ('7.6B', '494.03M', '260K', '12')
    """
    for unit, letter, digits in ((1e9, "B", 1), (1e6, "M", 2), (1e3, "K", 0)):
        if number >= unit:
            return f"{number / unit:.{0 if number % unit == 0 else digits}f}{letter}"
    return str(number)
