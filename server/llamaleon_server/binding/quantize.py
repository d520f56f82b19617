"""`python -m llamaleon_server.binding.quantize IN OUT TYPE`: a model in another quantisation of llama.cpp's.

A process of its own: what llama.cpp aborts on, it aborts here. The last line on standard error says why.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.ggml_types import TENSOR_TYPES
from llamaleon_convert.header import read_header
from llamaleon_server.binding import library
from llamaleon_server.binding.errors import BindingError
from llamaleon_server.binding.imatrix import Importance, as_rows, read_imatrix

PREFIX = "LLAMA_FTYPE_MOSTLY_"
KINDS: dict[str, int] = {
    "F32": llama_cpp.LLAMA_FTYPE_ALL_F32,
    **{key.removeprefix(PREFIX): getattr(llama_cpp, key) for key in dir(llama_cpp) if key.startswith(PREFIX)},
}
FULL = {KINDS["F32"], KINDS["F16"], KINDS["BF16"]}
SAME = "SAME"
IDS = {kind.name: number for number, kind in TENSOR_TYPES.items()}
NEEDS_IMATRIX = ("requires an imatrix", "Missing importance matrix")


def quantize(
    source: Path,
    target: Path,
    kind: str,
    *,
    like: Path | None = None,
    imatrix: Path | None = None,
    threads: int = 0,
) -> None:
    """Write the model `source` as `target`, which appears whole or not at all.

    Args:
        kind: as llama-quantize calls it, in any case: Q4_K_M, IQ4_XS, F16, ...; SAME: every tensor in the
            type that it has in the model `like`.
        imatrix: an importance matrix of llama.cpp's, in GGUF: the smallest kinds need one, all gain by it.
        threads: 0: as many as there are cores.

    Raises:
        BindingError: an unknown kind, one that needs an importance matrix, or what llama.cpp says.
        ConvertError: a file cannot be read.
    """
    kind = kind.upper()
    types: Mapping[str, str] = {}
    if kind == SAME:
        if like is None:
            raise BindingError("type SAME needs the model that it is to be like.")
        header = read_header(like)
        types = {name: tensor.type for name, tensor in header.tensors.items() if len(tensor.shape) > 1}
        number = header.integer("general.file_type")
        if number not in KINDS.values() or number in FULL:
            number = KINDS["Q8_0"]  # llama.cpp looks at single tensors only where the whole is quantised
    else:
        number = KINDS.get(kind)
    if number is None:
        known = ", ".join(sorted(KINDS))
        raise BindingError(f"{kind} is no type of llama.cpp's. Known: {known}.")
    read_header(source)  # what is no GGUF is refused here, with a reason
    importance = {} if imatrix is None else read_imatrix(imatrix)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        _run(source, temporary, _Settings(number, types, importance, threads))
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # mkstemp's files are private
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


class _Settings(NamedTuple):
    number: int
    types: Mapping[str, str]
    importance: Importance
    threads: int


def _run(source: Path, target: Path, settings: _Settings) -> None:
    library.start()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = settings.number
    params.nthread = settings.threads
    params.allow_requantize = True
    kept: list[Any] = []  # llama.cpp holds only the addresses
    if settings.types:
        kept.append(_overrides(settings.types))
        params.tt_overrides = ctypes.cast(kept[-1], type(params.tt_overrides))
    if settings.importance:
        kept.append(as_rows(settings.importance))
        params.imatrix = ctypes.cast(kept[-1][0], type(params.imatrix))
    with library.native_errors() as errors, library.silence():
        code = llama_cpp.llama_model_quantize(
            str(source).encode(), str(target).encode(), ctypes.byref(params)
        )
    kept.clear()
    if code:
        reason = " ".join(errors) or f"llama_model_quantize returned {code}"
        if any(mark in reason for mark in NEEDS_IMATRIX):
            reason = "this type needs an importance matrix (`--imatrix`), or take IQ4_XS or Q4_K_M."
        raise BindingError(f"{source}: cannot be quantised: {reason}")


def _overrides(types: Mapping[str, str]) -> Any:
    """llama.cpp's list of patterns and types, ended by an empty row."""
    rows = [(f"^{re.escape(name)}$".encode(), IDS[kind]) for name, kind in types.items()]
    return (llama_cpp.llama_model_tensor_override * (len(rows) + 1))(*rows, (None, 0))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="llamaleon_server.binding.quantize", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("kind", help=f"{SAME} or one of {', '.join(sorted(KINDS))}")
    parser.add_argument("--like", type=Path, help="with SAME: the model whose types are taken")
    parser.add_argument("--imatrix", type=Path, help="importance matrix of llama.cpp's, in GGUF")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        quantize(
            options.source,
            options.target,
            options.kind,
            like=options.like,
            imatrix=options.imatrix,
            threads=options.threads,
        )
    except (BindingError, ConvertError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
