"""Whether an existing GGUF LoRA may be served with a base: names, shapes, values, origin."""

from __future__ import annotations

import math
from pathlib import Path

from llamaleon_convert.architectures import lora_reaches
from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.header import Header, TensorInfo, read_header
from llamaleon_convert.manifest import Manifest, differences, fingerprint_of, manifest_of
from llamaleon_convert.plan import TIED

FLOAT_TYPES = {"F32", "F16", "BF16"}


def check_file(path: Path, base: Header, manifest: Manifest | None = None) -> Manifest:
    """See `llamaleon_convert.check_lora`."""
    manifest, header = manifest or manifest_of(path), read_header(path)
    if manifest.architecture != base.architecture:
        raise Refused(
            f"{path}: architecture: the adapter is for {manifest.architecture!r}, {base.path.name} is "
            f"{base.architecture!r}. Give the base it was made for."
        )
    if manifest.base is not None and (fields := differences(manifest.base, fingerprint_of(base))):
        raise Refused(
            f"{path}: made for another base than {base.path.name}: {'; '.join(fields)}. "
            "Give the base it was made for, or convert the adapter again for this one."
        )
    if "adapter.alora.invocation_tokens" in header:
        raise Refused(
            f"{path}: an activated LoRA (aLoRA) acts only after its invocation tokens: not supported."
        )
    if not math.isfinite(manifest.alpha):
        raise Refused(f"{path}: adapter.lora.alpha is {manifest.alpha}.")
    _check_names(header)
    for target in manifest.target_tensors:
        _check_target(header, base, target)
    for tensor in header.tensors.values():
        _check_values(header, tensor)
    return manifest


def _check_names(header: Header) -> None:
    for name in header.tensors:
        stem, _, suffix = name.rpartition(".")
        twin = {"lora_a": "lora_b", "lora_b": "lora_a"}.get(suffix)
        if twin is None:
            raise Refused(
                f"{header.path}: unexpected tensor {name!r}: llama.cpp would ignore it or refuse it."
            )
        if f"{stem}.{twin}" not in header.tensors:
            raise ConvertError(f"{header.path}: {name!r} has no {twin} beside it.")


def _check_target(header: Header, base: Header, target: str) -> None:
    weight = base.tensors.get(target)
    if weight is None:
        reason = TIED if target == "output.weight" else "Was the adapter made for another base?"
        raise Refused(f"{header.path}: {base.path.name} has no tensor {target!r}: {reason}")
    if target == "token_embd.weight" and "output.weight" not in base.tensors:
        raise Refused(f"{header.path}: tensor {target!r}: {TIED}")
    if len(weight.shape) < 2 or not lora_reaches(base.architecture, target):
        raise Refused(
            f"{header.path}: llama.cpp's {base.architecture} graph applies no LoRA to {target!r}: it would "
            "be ignored. Train without this target."
        )
    _check_shapes(header, base, weight)


def _check_shapes(header: Header, base: Header, weight: TensorInfo) -> None:
    """In ggml's order: A (n_in, rank) and B (rank, n_out); of an embedding A is (rank, n_vocab)."""
    a, b = header.tensors[f"{weight.name}.lora_a"].shape, header.tensors[f"{weight.name}.lora_b"].shape
    n_in, n_out = weight.shape[:2]
    if weight.name == "token_embd.weight":
        fits = len(a) == len(b) == 2 and a[0] == b[0] and (a[1], b[1]) == (n_out, n_in)
    else:
        stacked = weight.shape[2:]  # experts
        fits = len(a) == len(b) == len(weight.shape) and a[1] == b[0] and (a[0], b[1]) == (n_in, n_out)
        fits = fits and a[2:] == b[2:] == stacked
    if not fits or 0 in b:
        raise Refused(
            f"{header.path}: lora_a {a} and lora_b {b} do not fit {weight.name!r} {weight.shape} of "
            f"{base.path.name}. Was the adapter made for another base?"
        )


def _check_values(header: Header, tensor: TensorInfo) -> None:
    if not (_finite_floats(tensor) if tensor.type in FLOAT_TYPES else _finite_blocks(tensor)):
        raise Refused(
            f"{header.path}: tensor {tensor.name!r} holds NaN or infinite values: the training diverged."
        )


def _finite_floats(tensor: TensorInfo) -> bool:
    import numpy as np

    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        raw = file.read(tensor.nbytes)
    # In all three formats a value is NaN or infinite exactly when all bits of its exponent are set.
    words = np.frombuffer(raw, "<u4" if tensor.type == "F32" else "<u2")
    exponent = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[tensor.type]
    return not bool(((words & exponent) == exponent).any())


def _finite_blocks(tensor: TensorInfo) -> bool:
    """Raises: Refused if gguf-py cannot read the type."""
    import numpy as np

    from llamaleon_convert.tensors import read_rows  # gguf-py: a tenth of a second that most need not

    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(read_rows(tensor)).all())
