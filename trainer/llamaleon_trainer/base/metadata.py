"""The keys of a GGUF's own architecture."""

from __future__ import annotations

from typing import Any

from llamaleon_convert.header import Header

from ..errors import BaseUnsupported

Keys = dict[str, Any]


class Metadata:
    """A GGUF's own architecture keys, typed; a missing one without default names itself."""

    def __init__(self, header: Header, instead: Keys | None = None) -> None:
        """`instead` are values to take for some keys."""
        self.header = header
        self.architecture = header.architecture
        self._instead = instead or {}

    def number(self, key: str, default: float | None = None) -> float:
        name = f"{self.architecture}.{key}"
        value = self._instead.get(key, self.header.get(name, default))
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # one number a layer, all the same
        if isinstance(value, bool) or not isinstance(value, int | float):
            state = "differs from layer to layer" if isinstance(value, list) else "is missing"
            raise BaseUnsupported(f"the GGUF's metadata key {name} {state}")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        return int(self.number(key, default))

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.header

    def flag(self, key: str, *, default: bool) -> bool:
        return bool(self.header.get(f"{self.architecture}.{key}", default))

    def text(self, key: str, default: str) -> str:
        return str(self.header.get(f"{self.architecture}.{key}", default))

    def has_tensor(self, name: str) -> bool:
        return name in self.header.tensors

    @property
    def head_dim(self) -> int:
        heads, width = self.integer("attention.head_count"), self.integer("embedding_length")
        dim = self.integer("attention.key_length", width // heads)
        if self.integer("attention.value_length", dim) != dim:
            raise BaseUnsupported("attention heads whose keys and values differ in size are not supported")
        return dim

    def layers(self, key: str) -> list[int]:
        """A number for every layer, where the file may have one for all."""
        blocks = self.integer("block_count")
        value = self.header.get(f"{self.architecture}.{key}")
        if isinstance(value, list) and len(value) == blocks:
            return [int(one) for one in value]
        return [self.integer(key)] * blocks
