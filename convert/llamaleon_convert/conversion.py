"""A PEFT LoRA directory and the base GGUF it is for -> a GGUF LoRA."""

from __future__ import annotations

import math
from pathlib import Path

from llamaleon_convert.atomic import atomic
from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import read_header, refuse_overwriting
from llamaleon_convert.lora_writer import write_lora
from llamaleon_convert.manifest import Manifest, fingerprint_of, manifest_of
from llamaleon_convert.peft_config import read_config
from llamaleon_convert.plan import make_plan
from llamaleon_convert.safetensors_file import SafetensorsFile


def convert_directory(peft_dir: Path, base_gguf: Path, out_path: Path, *, scale: float) -> Manifest:
    """See `llamaleon_convert.convert`."""
    if not math.isfinite(scale) or scale == 0:
        raise ConvertError(f"scale is {scale}: it must be a number other than 0.")
    config = read_config(peft_dir)
    weights = SafetensorsFile(_weights_path(peft_dir))
    base = read_header(base_gguf)
    refuse_overwriting(out_path, base)
    fingerprint = fingerprint_of(base)
    plan = make_plan(config, weights, base)
    if plan.base_copies:
        from llamaleon_convert.base_copies import (
            check_copy,
        )  # gguf-py: a tenth of a second that most need not

        for copy in plan.base_copies:
            check_copy(weights, base, copy)
    with atomic(out_path) as temporary:
        sha256 = write_lora(temporary, plan.targets, weights, fingerprint, scale=scale)
        manifest = manifest_of(temporary, sha256=sha256)
    if config.base_model:
        manifest.training = {"base_model_name_or_path": config.base_model}
    return manifest


def _weights_path(peft_dir: Path) -> Path:
    path = peft_dir / "adapter_model.safetensors"
    if path.is_file():
        return path
    if (peft_dir / "adapter_model.bin").is_file():
        raise ConvertError(
            f"{peft_dir}: holds only adapter_model.bin, a pickle, which could run code when read. Load it "
            "with PEFT where you trust it, and save it with `save_pretrained(DIR, safe_serialization=True)`."
        )
    raise ConvertError(f"{peft_dir}: there is no adapter_model.safetensors; the download is incomplete.")
