"""Writes a GGUF model like another, with some tensors in another type; one piece in memory at a time.

Metadata goes across byte for byte: gguf-py's writer would have to be told the type of every value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.gguf_bytes import ALIGNMENT, Row, entry, head, padding, text
from llamaleon_convert.header import Header, TensorInfo
from llamaleon_convert.tensors import nbytes_of

COPY_BYTES = 16 << 20
SPLIT = "split."  # keys that say which part of several a file is: the copy is whole

Pieces = Callable[[TensorInfo], Iterator[bytes]]


def write_model(
    path: Path, model: Header, types: Mapping[str, str], pieces: Pieces, notes: Mapping[str, str]
) -> None:
    """A copy of `model` in one file.

    Args:
        types: new types of those tensors that `pieces` yields the bytes of; the others are copied.
        notes: string keys that are added to the metadata.
    """
    alignment = model.integer("general.alignment") or ALIGNMENT
    tensors = list(model.tensors.values())
    kinds = [types.get(tensor.name, tensor.type) for tensor in tensors]
    rows = [
        Row(tensor.name, tensor.shape, kind, nbytes_of(tensor.shape, kind))
        for tensor, kind in zip(tensors, kinds, strict=True)
    ]
    keys = model.keys()
    kept = [key for key in keys if not key.startswith(SPLIT) and key not in notes]
    entries = [text(key) + model.raw(key) for key in kept]
    entries += [entry(key, value) for key, value in notes.items()]
    with path.open("wb") as file:
        file.write(head(entries, rows, alignment))
        for tensor in tensors:
            for piece in pieces(tensor) if tensor.name in types else _copied(tensor):
                file.write(piece)
            file.write(b"\0" * padding(file.tell(), alignment))


def _copied(tensor: TensorInfo) -> Iterator[bytes]:
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        left = tensor.nbytes
        while left and (piece := file.read(min(left, COPY_BYTES))):
            left -= len(piece)
            yield piece
    if left:
        raise ConvertError(f"{tensor.file}: the file became shorter while it was being read.")
