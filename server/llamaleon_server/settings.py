"""Settings, read once into one frozen object. Unknown keys are errors."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct


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
