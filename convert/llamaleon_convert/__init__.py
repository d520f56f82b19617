"""PEFT LoRA directories to GGUF LoRA files, with a manifest and numeric care.

    manifest = convert(Path("my-peft-dir"), Path("base.gguf"), Path("adapter.gguf"))

Importing this package costs neither numpy nor gguf; the work imports them.
"""

from __future__ import annotations

from pathlib import Path

from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.header import Header
from llamaleon_convert.manifest import Manifest

__all__ = ["ConvertError", "Manifest", "Refused", "check_lora", "convert"]


def convert(
    peft_dir: Path | str, base_gguf: Path | str, out_path: Path | str, *, scale: float = 1.0
) -> Manifest:
    """Write the PEFT LoRA adapter of `peft_dir` as a GGUF LoRA for the base model `base_gguf`.

    Needs no torch and no Hugging Face copy of the base. The file appears at `out_path` whole or not at all,
    and carries the base's fingerprint. The same input gives the same bytes.

    Args:
        scale: multiplies the adapter's effect for good (dimensionless); requests may still weigh it.

    Raises:
        Refused: GGUF cannot express the adapter, or it does not fit the base; the message carries the remedy.
        ConvertError: a file is missing, truncated or damaged.
    """
    from llamaleon_convert.conversion import convert_directory

    return convert_directory(Path(peft_dir), Path(base_gguf), Path(out_path), scale=scale)


def check_lora(path: Path | str, base: Header, *, manifest: Manifest | None = None) -> Manifest:
    """Manifest of an existing GGUF LoRA, if it fits the base whose header is given.

    Args:
        manifest: what `manifest_of` says about the file, where that is known: it is then not hashed again.

    Raises:
        Refused: it was made for another base (the message names the field that differs), does not fit, or
            holds a tensor that llama.cpp would ignore.
        ConvertError: the file is missing, truncated or damaged.
    """
    from llamaleon_convert.check import check_file

    return check_file(Path(path), base, manifest)
