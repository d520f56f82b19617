"""Training that goes on from an adapter: what it fixes, and its weights in the job directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_server.errors import BadRequest
from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.registry.adapters import PEFT
from llamaleon_server.registry.blobs import copy_peft_synced, disk_errors, remove_tree
from llamaleon_server.registry.records import DEPLOYED, REGISTERED, AdapterVersion, Target
from llamaleon_server.registry.registry import Registry

INIT_DIRECTORY = "init"  # of the job directory: the PEFT files that training begins with


class PeftConfig(Struct, frozen=True, kw_only=True):
    """The fields of adapter_config.json that a LoRA of the trainer has, and those that it cannot have."""

    r: int
    lora_alpha: float
    target_modules: str | list[str] | None = None
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, Any] | None = None
    alpha_pattern: dict[str, Any] | None = None
    target_parameters: list[str] | None = None


def adapter_of(target: Target) -> AdapterVersion | None:
    """The adapter that a job is asked to go on from; None: it starts from a base. Raises: BadRequest."""
    if not target.adapters:
        return None
    if len(target.adapters) > 1 or target.adapters[0][1] != 1.0:
        raise BadRequest(
            f"`{target.requested}` is a blend: training starts from a base (`{target.base.name}`) or goes on "
            "from one adapter.",
            param="model",
        )
    return target.adapters[0][0]


def fixed_by(version: AdapterVersion, base: str) -> dict[str, Any]:
    """Hyperparameters that cannot be others than the adapter's. Raises: BadRequest naming `model`."""
    config = _config(version, base)
    foreign = {
        "DoRA": config.use_dora,
        "bias": config.bias != "none",
        "modules_to_save": bool(config.modules_to_save),
        "rank_pattern": bool(config.rank_pattern),
        "alpha_pattern": bool(config.alpha_pattern),
        "target_parameters": bool(config.target_parameters),
    }
    if any(foreign.values()) or not config.target_modules:
        names = ", ".join(name for name, there in foreign.items() if there) or "no target_modules"
        raise BadRequest(
            f"Training cannot go on from `{version.model}`: it has {names}, which the trainer does not make. "
            f"Start from `{base}`.",
            param="model",
        )
    return {
        "lora_r": config.r,
        "lora_alpha": float(config.lora_alpha),
        "lora_target_modules": config.target_modules,
        "use_rslora": config.use_rslora,
    }


def with_fixed(requested: dict[str, Any], fixed: dict[str, Any], method: str) -> dict[str, Any]:
    """Raises: BadRequest naming a hyperparameter that was asked for and differs."""
    for key, value in fixed.items():
        given = requested.get(key, "auto")
        if given not in ("auto", value):
            raise BadRequest(
                f"`{key}` is {value!r} in the adapter that training goes on from, not {given!r}.",
                param=f"method.{method}.hyperparameters.{key}",
            )
    return requested | fixed


def bring_weights(registry: Registry, base: str, init_adapter: str, directory: Path) -> None:
    """Copy the adapter's PEFT files: it may be removed while the job runs. Blocks. Raises: JobFailed."""
    name, _, version = init_adapter.rpartition("@")
    found = next(
        (
            one
            for one in registry.adapters()
            if (one.base, one.adapter, one.version) == (base, name, int(version))
            and one.state in {REGISTERED, DEPLOYED}
        ),
        None,
    )
    if found is None:
        raise JobFailed(
            "adapter_deleted", f"`{base}+{init_adapter}` was deleted before it was read.", "model"
        )
    with disk_errors("the job directory"):
        remove_tree(directory / INIT_DIRECTORY)
        directory.mkdir(parents=True, exist_ok=True)
        copy_peft_synced(found.directory / PEFT, directory / INIT_DIRECTORY)


def _config(version: AdapterVersion, base: str) -> PeftConfig:
    path = version.directory / PEFT / "adapter_config.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=PeftConfig)
    except FileNotFoundError as error:
        raise BadRequest(
            f"`{version.model}` has no PEFT weights (it was added as a GGUF file), and training goes on from "
            f"those alone: add its PEFT directory, or start from `{base}`.",
            param="model",
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise BadRequest(f"{path} cannot be read: {error}", param="model") from error
