"""Settings, read once into one frozen object. Unknown keys and impossible values are errors."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from msgspec import Struct

# Field -> the least and the most (None: no limit of ours).
ENGINE_LIMITS: dict[str, tuple[int, int | None]] = {
    "gpu_layers": (-1, None),  # -1: all
    "context_tokens": (1, None),
    "parallel_sequences": (1, 128),  # llama.cpp knows 256 numbers, and idle prefixes want some
    "kv_tokens": (1, None),
    "batch_tokens": (1, None),
    "bank_ranks": (8, None),  # the engine rounds it to what its kernels like
    "adapter_ram_bytes": (0, None),
    "prefix_ram_bytes": (0, None),
    "threads": (1, None),
    "queue_limit": (1, None),
}
_BYTES = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<prefix>[kmgt]?)(?P<binary>i?)b?", re.IGNORECASE)


def bytes_of(text: str) -> int:
    """`4GiB` is 4 * 2**30, `4GB` and `4G` are 4 * 10**9, a bare number is bytes. Raises: ValueError."""
    found = _BYTES.fullmatch(text.strip())
    if found is None or (found["binary"] and not found["prefix"]):
        raise ValueError(f"{text!r} is no size: write 4GiB, 500MB or a number of bytes")
    power = " kmgt".index(found["prefix"].lower() or " ")
    return int(float(found["number"]) * (1024 if found["binary"] else 1000) ** power)


def default_home() -> Path:
    return Path(os.environ.get("LLAMALEON_HOME") or "~/.llamaleon").expanduser()


class EngineSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Per-engine settings; `None` means automatic. Mirrors `engine.protocol.EngineOptions`."""

    gpu_layers: int | None = None
    context_tokens: int | None = None
    parallel_sequences: int = 32
    kv_tokens: int | None = None
    batch_tokens: int = 512
    step_target_s: float = 0.25
    speculation: bool = True
    mixing: bool = True
    bank_ranks: int = 256
    adapter_ram_bytes: int = 4 << 30
    prefix_ram_bytes: int = 1 << 30
    threads: int | None = None
    flash_attention: bool | None = None
    kv_type: str = "f16"
    queue_limit: int = 256
    use_mmap: bool = True

    def __post_init__(self) -> None:
        """Raises: ValueError naming the field."""
        for field, (least, most) in ENGINE_LIMITS.items():
            value = getattr(self, field)
            if value is not None and (value < least or (most is not None and value > most)):
                limits = f"at least {least}" if most is None else f"between {least} and {most}"
                raise ValueError(f"{field} must be {limits}, not {value}")
        if not (self.step_target_s > 0 and math.isfinite(self.step_target_s)):
            raise ValueError(f"step_target_s must be more than 0 seconds, not {self.step_target_s:g}")


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything `create_app` needs."""

    home: Path = Path("~/.llamaleon").expanduser()
    host: str = "127.0.0.1"
    port: int = 11711
    models: tuple[str, ...] = ()  # GGUF paths or names, registered at start
    watch: tuple[Path, ...] = ()  # folders whose GGUF LoRA files and PEFT directories become adapters
    engine: EngineSettings = EngineSettings()
    idle_unload_s: float | None = 600.0  # None: never
    engine_start_timeout_s: float = 600.0
    max_upload_bytes: int = 512 * 1024 * 1024
    organization: str = "local"  # the ORG part of `ft:BASE:ORG:SUFFIX:ID`
    trainer_python: str | None = None  # another interpreter for the sidecar; None: this one
    engine_command: tuple[str, ...] | None = None  # None: this interpreter's `-m llamaleon_server.engine`
