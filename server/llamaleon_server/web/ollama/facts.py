"""What Ollama's clients are shown of a model, read from its GGUF."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_convert.header import Header, read_header
from llamaleon_server.answers.answering import template_of
from llamaleon_server.chat.prompt import manner_of
from llamaleon_server.registry.records import Base, Target
from llamaleon_server.web.llama_server.infill import MARKS
from llamaleon_server.wire.ollama.models import Details, human_count

SHORT = 5  # items of an array that are shown unasked
TEXTS = ("general.name", "tokenizer.chat_template")  # shown elsewhere


def details_of(base: Base, parent: str = "") -> Details:
    count = 0 if base.missing else _short(*_stamp(base.path)).parameters
    return Details(
        parent_model=parent,
        family=base.architecture,
        families=[base.architecture],
        parameter_size=human_count(count),
        quantization_level=base.weight_type,
    )


def digest_of(target: Target) -> str:
    """Of what is answered with: equal for two names of one thing."""
    digest = hashlib.sha256(msgspec.json.encode(target.base.fingerprint))
    for version, weight in target.adapters:
        digest.update(f"{version.key}*{weight!r}".encode())
    digest.update(msgspec.json.encode(target.preset))
    return digest.hexdigest()


def model_info(base: Base, *, verbose: bool) -> dict[str, Any]:
    """The metadata of the file; long arrays are null unless `verbose`."""
    if not verbose:
        return _short(*_stamp(base.path)).info
    return _info(read_header(base.path), verbose=True)


def _info(header: Header, *, verbose: bool) -> dict[str, Any]:
    info: dict[str, Any] = {"general.parameter_count": _count(header)}
    for key in header.keys():  # noqa: SIM118 (a header is no dict)
        if key not in TEXTS:
            value = header.get(key)
            long = isinstance(value, list) and len(value) > SHORT
            info[key] = None if long and not verbose else _finite(value)
    return info


def capabilities(base: Base, target: Target) -> list[str]:
    """In Ollama's words: what a client may ask of the model."""
    short = _short(*_stamp(base.path))
    if short.embeds:
        return ["embedding"]
    manner = manner_of(template_of(base, target.preset))
    more = {
        "tools": manner.shows_tools,  # others are told of tools in words
        "insert": short.inserts,
        "vision": base.projector is not None,
        "thinking": manner.tags is not None,
    }
    return ["completion", *(name for name, can in more.items() if can)]


def _stamp(path: Path) -> tuple[Path, int, int]:
    stat = path.stat()
    return path, stat.st_size, stat.st_mtime_ns


class _Short(Struct, frozen=True):
    """What is shown of a file again and again."""

    parameters: int
    embeds: bool
    inserts: bool
    info: dict[str, Any]


@lru_cache(maxsize=256)
def _short(path: Path, size: int, mtime_ns: int) -> _Short:
    """Listing and showing must not read a large file's vocabulary each time."""
    header = read_header(path)
    embeds = header.model_value("pooling_type") is not None
    return _Short(_count(header), embeds, _inserts(header), _info(header, verbose=False))


def _inserts(header: Header) -> bool:
    """Whether the vocabulary has the marks to fill in the middle."""
    tokens = header.get("tokenizer.ggml.tokens")
    known = set(tokens) if isinstance(tokens, list) else set()
    return any(known.issuperset(marks[:3]) for marks in MARKS)


def _count(header: Header) -> int:
    return sum(math.prod(tensor.shape) for tensor in header.tensors.values())


def _finite(value: Any) -> Any:
    """JSON has no word for infinities."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
