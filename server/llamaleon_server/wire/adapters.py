"""vLLM's bodies for loading and unloading an adapter."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from llamaleon_server.wire.decode import decode

Text = Annotated[str, Meta(min_length=1)]


class LoadLora(Struct, frozen=True, kw_only=True):
    """`lora_path` is a GGUF LoRA file or a PEFT directory, on the server's disk."""

    lora_name: Text
    lora_path: Text
    load_inplace: bool = False
    base_model_name: Text | None = None


class UnloadLora(Struct, frozen=True, kw_only=True):
    lora_name: Text


def parse_load(body: bytes) -> LoadLora:
    """Raises: BadRequest naming the field."""
    return decode(body, LoadLora)


def parse_unload(body: bytes) -> UnloadLora:
    """Raises: BadRequest naming the field."""
    return decode(body, UnloadLora)
