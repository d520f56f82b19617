"""The tensors of a GGUF, mapped into memory: as they are packed, or dequantised."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch

from llamaleon_convert.header import Header, TensorInfo

from ..errors import BaseUnsupported
from .blocks import dequantize, require_known

ALIGNMENT = 8  # bytes, of the widest number that is read out of a block or a row


class Tensors:
    """Maps a file (all parts of a split one) privately: pages are those that a server of it shares."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._files: dict[Path, torch.Tensor] = {}
        try:
            self._names = gguf.get_tensor_name_map(_architecture(header.architecture), header.block_count)
        except StopIteration:
            raise BaseUnsupported(f"gguf knows no tensor names of {header.architecture!r}") from None

    def name_of(self, parameter: str) -> str | None:
        """The GGUF tensor of a transformers parameter."""
        name: str | None = self._names.get_name(parameter, try_suffixes=(".weight", ".bias"))
        return name

    def packed(self, info: TensorInfo) -> torch.Tensor:
        """(n_rows, row_bytes) uint8: the bytes of the file itself.

        Raises: BaseUnsupported for a type that `dequantize` does not know.
        """
        require_known(info.name, info.type)
        if info.nbytes == 0:
            raise BaseUnsupported(f"tensor {info.name} is empty")
        start = info.offset
        data = self._file(info.file)[start : start + info.nbytes]
        if start % ALIGNMENT:
            data = data.clone()
        return data.view(_rows(info), -1)

    def read(self, info: TensorInfo, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Dequantised, in row-major order: (n_out, n_in) of a linear layer. Never memory of the file's."""
        values = dequantize(self.packed(info), info.type, dtype).view(info.shape[::-1])
        return values.clone() if info.type == _NAMES.get(dtype) else values

    def _file(self, path: Path) -> torch.Tensor:
        if path not in self._files:
            size = path.stat().st_size
            self._files[path] = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        return self._files[path]


_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}  # whose `to` copies nothing


def _rows(info: TensorInfo) -> int:
    rows = 1
    for extent in info.shape[1:]:
        rows *= extent
    return rows


def _architecture(name: str) -> gguf.MODEL_ARCH:
    return next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
