"""A PEFT LoRA directory and the base GGUF it is for -> a GGUF LoRA."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llamaleon_convert.base_copies import check_copy
from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import read_header
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
    fingerprint = fingerprint_of(base)
    plan = make_plan(config, weights, base)
    for copy in plan.base_copies:
        check_copy(weights, base, copy)
    with _atomic(out_path) as temporary:
        write_lora(temporary, plan.targets, weights, fingerprint, scale=scale)
        manifest = manifest_of(temporary)
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


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: takes its name, synced, when the block ends well; else is removed."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise ConvertError(f"{path}: cannot be written: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's files are private
        temporary.replace(path)
    except OSError as error:
        raise ConvertError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
