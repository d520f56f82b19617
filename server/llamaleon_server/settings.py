"""Settings, read once into one frozen object. Unknown keys and impossible values are errors."""

from __future__ import annotations

import base64
import ipaddress
import math
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

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
    "yarn_orig_ctx": (1, None),
    "main_gpu": (0, None),
    "queue_limit": (1, None),
}
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
SPLIT_MODES = ("none", "layer", "row", "tensor")
TRAINING_GPU = ("share", "yield", "wait")  # see residents/sharing.py
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
MOST_PORT = 65_535
CHOICES: dict[str, tuple[str, ...]] = {
    "kv_type": KV_TYPES,
    "kv_type_k": KV_TYPES,
    "kv_type_v": KV_TYPES,
    "rope_scaling": ROPE_SCALINGS,
    "split_mode": SPLIT_MODES,
}
POSITIVE = (
    "step_target_s",
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
)
_BYTES = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<prefix>[kmgt]?)(?P<binary>i?)b?", re.IGNORECASE)


def bytes_of(text: str) -> int:
    """`4GiB` is 4 * 2**30, `4GB` and `4G` are 4 * 10**9, a bare number is bytes. Raises: ValueError."""
    found = _BYTES.fullmatch(text.strip())
    if found is None or (found["binary"] and not found["prefix"]):
        raise ValueError(f"{text!r} is no size: write 4GiB, 500MB or a number of bytes")
    power = " kmgt".index(found["prefix"].lower() or " ")
    return int(float(found["number"]) * (1024 if found["binary"] else 1000) ** power)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_webhook_secret(secret: str) -> None:
    """Raises: ValueError."""
    if not secret:
        raise ValueError("webhook_secret is empty")
    if secret.startswith("whsec_"):
        try:
            base64.b64decode(secret[len("whsec_") :], validate=True)
        except ValueError as error:
            raise ValueError(f"webhook_secret: what follows whsec_ must be base64 ({error})") from error


def default_home() -> Path:
    return Path(os.environ.get("LLAMALEON_HOME") or "~/.llamaleon").expanduser()


class EngineSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Per-engine settings; `None` means automatic. Mirrors `engine.options.EngineOptions`.

    They can be set for all models (flags of `serve`) and for each (`registry/presets.py`).
    """

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
    kv_type_k: str | None = None  # of the keys and of the values alone; None: `kv_type`
    kv_type_v: str | None = None
    queue_limit: int = 256
    use_mmap: bool = True
    # RoPE; None: as the GGUF says.
    rope_scaling: str | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None  # 0.25: four times the context
    yarn_ext_factor: float | None = None  # 0 to 1, how much is extrapolated
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    yarn_orig_ctx: int | None = None
    # Several GPUs; None: llama.cpp's own way, by layers in proportion to their memory.
    split_mode: str | None = None
    tensor_split: tuple[float, ...] | None = None  # shares of each GPU, in any unit
    main_gpu: int | None = None
    # What this engine may take in all; set by the server from its budget. None: what is free.
    memory_bytes: int | None = None
    # What a model made from this one wants, if that is more: as far as memory and the model allow it.
    least_context_tokens: int = 0

    @property
    def kv_types(self) -> tuple[str, str]:
        """Of the cache's keys and values."""
        return self.kv_type_k or self.kv_type, self.kv_type_v or self.kv_type

    def __post_init__(self) -> None:
        """Raises: ValueError naming the field."""
        for field, (least, most) in ENGINE_LIMITS.items():
            value = getattr(self, field)
            if value is not None and (value < least or (most is not None and value > most)):
                limits = f"at least {least}" if most is None else f"between {least} and {most}"
                raise ValueError(f"{field} must be {limits}, not {value}")
        for field in POSITIVE:
            value = getattr(self, field)
            if value is not None and not (value > 0 and math.isfinite(value)):
                unit = " seconds" if field.endswith("_s") else ""
                raise ValueError(f"{field} must be more than 0{unit}, not {value:g}")
        if self.yarn_ext_factor is not None and not 0 <= self.yarn_ext_factor <= 1:
            raise ValueError(f"yarn_ext_factor must be between 0 and 1, not {self.yarn_ext_factor:g}")
        for field, choices in CHOICES.items():
            value = getattr(self, field)
            if value is not None and value not in choices:
                raise ValueError(f"{field} must be one of {', '.join(choices)}, not {value!r}")
        shares = self.tensor_split
        if shares is not None and not (sum(shares) > 0 and all(0 <= one < math.inf for one in shares)):
            raise ValueError("tensor_split must be shares of at least 0, one of them more")


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything `create_app` needs."""

    home: Path = Path("~/.llamaleon").expanduser()
    host: str = "127.0.0.1"
    port: int = 11711
    models: tuple[str, ...] = ()  # GGUF paths or names, registered at start
    projector: Path | None = None  # the mmproj file of the one path in `models`
    discover: bool = False  # serve the models that lie in Ollama's, LM Studio's and the hub's folders
    watch: tuple[Path, ...] = ()  # folders whose GGUF LoRA files and PEFT directories become adapters
    engine: EngineSettings = EngineSettings()
    idle_unload_s: float | None = 600.0  # None: never
    memory_budget: int | None = None  # bytes of all models together; None: a share of what is free
    max_models: int | None = None  # most in memory at once
    room_wait_s: float = 60.0  # how long a request waits for others to leave memory
    engine_start_timeout_s: float = 600.0
    max_upload_bytes: int = 512 * 1024 * 1024
    organization: str = "local"  # the ORG part of `ft:BASE:ORG:SUFFIX:ID`
    trainer_python: str | None = None  # another interpreter for the sidecar; None: this one
    training_gpu: str = "share"  # TRAINING_GPU
    webhook_urls: tuple[str, ...] = ()  # are told how jobs, batches and background responses end
    webhook_secret: str | None = None  # that signs it; None: HOME/webhook.secret, made when it is needed
    engine_name: str | None = None  # of another package's entry point; None: ours
    engine_command: tuple[str, ...] | None = None  # None: this interpreter's `-m llamaleon_server.engine`

    # Access: see docs/access.md.
    api_key: str | None = None  # one key that may do everything, beside those of the database
    insecure: bool = False  # exposed without any key, on purpose
    allowed_hosts: tuple[str, ...] = ()  # names that the `Host` header may have, beside local ones; `*`: any
    cors_origins: tuple[str, ...] = ()  # whose pages may use the server; `*`: everybody's
    allow_dirs: tuple[Path, ...] = ()  # where requests may load files from by path, if exposed
    tls_cert: Path | None = None  # PEM, with its chain
    tls_key: Path | None = None
    max_body_bytes: int = 64 * 1024 * 1024  # of JSON: images are in it; uploads have a limit of their own
    read_timeout_s: float = 30.0  # for a request to arrive; a large body gets more
    request_timeout_s: float | None = 3600.0  # until an answer begins; None: no limit

    def __post_init__(self) -> None:
        """Raises: ValueError naming the setting."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key must be given together")
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("api_key must not be empty")
        if self.training_gpu not in TRAINING_GPU:
            raise ValueError(
                f"training_gpu must be one of {', '.join(TRAINING_GPU)}, not {self.training_gpu!r}"
            )
        if self.webhook_secret is not None:
            check_webhook_secret(self.webhook_secret)
        for url in self.webhook_urls:
            if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
                raise ValueError(f"webhook_urls must be http:// or https:// addresses, not {url!r}")
        if not 0 <= self.port <= MOST_PORT:  # the socket would take another: the number modulo 65,536
            raise ValueError(f"port must be between 0 and {MOST_PORT}, not {self.port}")
        for field in ("memory_budget", "max_models", "max_upload_bytes", "max_body_bytes"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be at least 1, not {value}")
        for field in ("idle_unload_s", "room_wait_s"):
            value = getattr(self, field)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{field} must be at least 0 seconds, not {value:g}")
        for field in ("engine_start_timeout_s", "read_timeout_s", "request_timeout_s"):
            value = getattr(self, field)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field} must be more than 0 seconds, not {value:g}")

    @property
    def exposed(self) -> bool:
        """Whether others than this machine may reach the server."""
        return not is_loopback(self.host)
