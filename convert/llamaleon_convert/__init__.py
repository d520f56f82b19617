"""PEFT LoRA directories to GGUF LoRA files and back, and what can be made of adapters.

    manifest = convert(Path("my-peft-dir"), Path("base.gguf"), Path("adapter.gguf"))
    merge(Path("base.gguf"), [(Path("adapter.gguf"), 0.7)], Path("merged.gguf"))

Importing this package costs neither numpy nor gguf; the work imports them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.header import Header
from llamaleon_convert.manifest import Manifest

if TYPE_CHECKING:
    from llamaleon_convert.extracting import Extracted
    from llamaleon_convert.lowrank_file import Approximation
    from llamaleon_convert.merging import Merged

__all__ = [
    "ConvertError",
    "Manifest",
    "Refused",
    "check_lora",
    "combine",
    "convert",
    "expressible",
    "extract",
    "merge",
    "to_peft",
]


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


def expressible(base: Header, modules: Sequence[str]) -> dict[str, str]:
    """Why each of `modules` cannot become a GGUF LoRA that llama.cpp applies; empty if all can.

    Reads nothing but the header: asked before training, it saves the training.

    Args:
        modules: names as `named_modules()` of the transformers model gives them, for example
            `model.layers.0.self_attn.q_proj`; or parameters, as `target_parameters` would take them:
            `model.layers.0.mlp.experts.gate_up_proj`, `model.layers.0.mlp.gate.weight`.
    """
    from llamaleon_convert.reach import reasons

    return reasons(base, modules)


def merge(
    base_gguf: Path | str,
    adapters: Sequence[tuple[Path | str, float]],
    out_path: Path | str,
    *,
    widen: bool = False,
) -> Merged:
    """Write the base with the adapters in it as a model of its own, whole or not at all.

    Tensor by tensor, so the memory needed is that of the adapters' largest tensor. Metadata, tokenizer and
    tensors that no adapter touches stay byte for byte. What an adapter touches keeps its type where gguf-py
    writes it, and is F32 otherwise: llama.cpp's quantiser then makes of it what is wanted.

    Args:
        adapters: GGUF LoRAs or PEFT directories, each with its weight (dimensionless).
        widen: F32 for all that is touched: for a file that is quantised next.

    Raises:
        Refused: an adapter is not for this base, or the sum is not finite.
        ConvertError: a file cannot be read or written.
    """
    from llamaleon_convert.merging import merge_files

    pairs = [(Path(path), weight) for path, weight in adapters]
    return merge_files(Path(base_gguf), pairs, Path(out_path), widen=widen)


def to_peft(
    lora: Path | str,
    base_gguf: Path | str,
    directory: Path | str,
    *,
    base_name: str | None = None,
    root: str | None = None,
) -> list[str]:
    """Write the GGUF LoRA `lora` of `base_gguf` as a PEFT directory, and return the modules that it targets.

    What `convert` reordered is put back, so that PEFT computes what llama.cpp does. A GGUF tensor that is
    half of a module (gate and up in one) with an A of its own takes up part of that module's rank.

    Args:
        base_name: of the Hugging Face model, written into the configuration.
        root: the module that holds the layers, where that is not the usual one (multimodal models).

    Raises:
        Refused: the adapter is not for this base, or transformers has no module for a tensor of it.
        ConvertError: a file cannot be read or written.
    """
    from llamaleon_convert.header import read_header
    from llamaleon_convert.unconvert import unconvert_file

    return unconvert_file(Path(lora), read_header(base_gguf), Path(directory), base_name=base_name, root=root)


def combine(
    base_gguf: Path | str,
    adapters: Sequence[tuple[Path | str, float]],
    out_path: Path | str,
    *,
    method: str = "linear",
    rank: int | None = None,
    density: float = 0.5,
    seed: int = 0,
) -> Approximation:
    """Write the combination of adapters of one base as one GGUF LoRA, and say how exact it is.

    Adapters may have any ranks and targets: one that leaves a tensor alone changes it by zero.

    Args:
        adapters: GGUF LoRAs or PEFT directories, each with its weight (dimensionless; of slerp: 1 - t, t).
        method: linear, slerp, ties, dare or dare_ties; see `llamaleon_convert.combining`.
        rank: of the result; the sum of the adapters' ranks by default, which is exact for linear and slerp.
        density: part of the entries that ties and dare keep.
        seed: of what dare drops; the same seed gives the same bytes.

    Raises:
        Refused: an adapter is not for this base.
        ConvertError: a setting makes no sense, or a file cannot be read or written.
    """
    from llamaleon_convert.combining import How, combine_files

    pairs = [(Path(path), weight) for path, weight in adapters]
    how = How(method, tuple(weight for _, weight in pairs), density, seed)
    return combine_files(Path(base_gguf), pairs, Path(out_path), how=how, rank=rank)


def extract(
    before: Path | str,
    after: Path | str,
    out_path: Path | str,
    *,
    served: Path | str | None = None,
    rank: int = 32,
    tolerance: float = 0.01,
    seed: int = 0,
) -> Extracted:
    """Write what a full fine-tune changed as a GGUF LoRA of `rank`, and say how much of it that is.

    Memory is bounded: a matrix of up to 512 MiB in float32 is held, a larger one read again at each pass.

    Args:
        before, after: two GGUF models, or two Hugging Face directories, of one model before and after.
        served: the GGUF that the adapter will be served with; `before` by default, if that is a GGUF.
        tolerance: largest relative change of a norm, a bias or another weight that a LoRA cannot carry.
        seed: of the randomised decomposition; the same seed gives the same bytes.

    Raises:
        Refused: more than `tolerance` would be left behind (the message names it), or nothing changed.
        ConvertError: the two are of different models, or a file cannot be read or written.
    """
    from llamaleon_convert.extracting import extract_files

    base = Path(before if served is None else served)
    if base.is_dir():
        raise ConvertError(f"{base}: a directory. Name the GGUF that the adapter will be served with.")
    return extract_files(
        Path(before), Path(after), base, Path(out_path), rank=rank, tolerance=tolerance, seed=seed
    )
