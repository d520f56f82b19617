"""What travels with every adapter, and how a base is recognised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct


class BaseFingerprint(Struct, frozen=True, kw_only=True):
    """What must agree between the base an adapter was made for and the base that serves it.

    Cheap to compute on a 40 GB file: `weights_sha256` covers the tensor table (names, shapes, types) and
    the first 4 KiB of every tensor, not every byte.
    """

    architecture: str
    embedding_length: int
    block_count: int
    vocab_size: int
    tokenizer_sha256: str
    chat_template_sha256: str | None
    weights_sha256: str


class Manifest(Struct, kw_only=True, omit_defaults=True):
    """`manifest.json` beside `adapter.gguf`. `base` is None for adapters of unknown origin."""

    format: int = 1
    sha256: str  # of adapter.gguf: the engine's adapter key
    architecture: str
    rank: int  # the largest
    alpha: float  # GGUF scalar
    target_tensors: list[str]
    base: BaseFingerprint | None = None
    base_name: str | None = None
    source: str = ""  # "trained", "peft", "gguf"
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


def read_manifest(path: Path) -> Manifest:
    return msgspec.json.decode(path.read_bytes(), type=Manifest)
