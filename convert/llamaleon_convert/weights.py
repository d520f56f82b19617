"""A whole model's weights in the layout of a GGUF, read from a GGUF or from a Hugging Face directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llamaleon_convert.architectures import ARCHITECTURES, EMBEDDING, HEAD, Place, locate
from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header, TensorInfo, read_header
from llamaleon_convert.lowrank import Matrix
from llamaleon_convert.order import Order, column_order, row_order
from llamaleon_convert.safetensors_file import SafetensorsFile
from llamaleon_convert.tensors import Floats, read_rows, row_count

# Granite's experts in files, where they go by older names than in the model.
IN_FILES = {
    ".block_sparse_moe.input_linear": ".block_sparse_moe.experts.gate_up_proj",
    ".block_sparse_moe.output_linear": ".block_sparse_moe.experts.down_proj",
}
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"


# A weight in a GGUF's layout; rows of stacked matrices are counted through.
Rows = Matrix
Index = npt.NDArray[np.int64]


class Model(Protocol):
    """One of the two models of a difference."""

    path: Path

    def matrix(self, tensor: TensorInfo) -> Rows | None:
        """What lies at the GGUF tensor of the base that is served; None if the model has no such weight."""
        ...

    def others(self, matrices: set[str]) -> dict[str, Rows]:
        """All weights beside the GGUF tensors `matrices`, by the model's own names."""
        ...


def opened_model(path: Path, served: Header) -> Model:
    """Raises: ConvertError if `path` is no GGUF of the served architecture and no directory of weights."""
    if path.is_dir():
        return HuggingFace(path, served)
    return Gguf(path, served)


class _GgufRows:
    def __init__(self, tensor: TensorInfo) -> None:
        self._tensor = tensor
        self.shape = row_count(tensor), tensor.shape[0]

    def rows(self, begin: int, end: int) -> Floats:
        return read_rows(self._tensor, begin, end)


class Gguf:
    def __init__(self, path: Path, served: Header) -> None:
        self.path, self._header = path, read_header(path)
        if self._header.architecture != served.architecture:
            raise ConvertError(
                f"{path}: architecture {self._header.architecture!r}, {served.path.name} is "
                f"{served.architecture!r}: a difference is of one model before and after training."
            )

    def matrix(self, tensor: TensorInfo) -> Rows | None:
        own = self._header.tensors.get(tensor.name)
        return None if own is None else _GgufRows(own)

    def others(self, matrices: set[str]) -> dict[str, Rows]:
        tensors = self._header.tensors.items()
        return {name: _GgufRows(tensor) for name, tensor in tensors if name not in matrices}


class HuggingFace:
    """A directory with config.json and model*.safetensors."""

    def __init__(self, path: Path, served: Header) -> None:
        self.path, self._served = path, served
        self._files = _files(path)
        architecture = ARCHITECTURES[served.architecture]
        self._names: dict[str, list[tuple[str, Place]]] = {}
        for name in self._files:
            module = name.removesuffix(".weight")
            for older, today in IN_FILES.items():
                module = module.replace(older, today)
            for place in locate(architecture, module, served.tensors):
                self._names.setdefault(place.tensor, []).append((name, place))

    def matrix(self, tensor: TensorInfo) -> Rows | None:
        found = self._names.get(tensor.name)
        if not found:
            return None
        if found[0][1].expert is not None:
            ordered = sorted(found, key=lambda pair: pair[1].expert or 0)
            return _Stacked([_HfRows(self, name, tensor, place) for name, place in ordered])
        (name, place), *_ = found
        return _HfRows(self, name, tensor, place)

    def others(self, matrices: set[str]) -> dict[str, Rows]:
        used = {name for tensor in matrices for name, _ in self._names.get(tensor, ())}
        return {name: _Plain(file, name) for name, file in self._files.items() if name not in used}

    @property
    def served(self) -> Header:
        return self._served

    def file(self, name: str) -> SafetensorsFile:
        return self._files[name]


class _Plain:
    """A tensor as it lies in the file."""

    def __init__(self, file: SafetensorsFile, name: str) -> None:
        self._file, self._name = file, name
        shape = file.entries[name].shape or (1,)
        self.shape = int(np.prod(shape[:-1], dtype=np.int64)), shape[-1]

    def rows(self, begin: int, end: int) -> Floats:
        return self._file.read_rows(self._name, begin, end).astype(np.float32)


class _HfRows:
    """A module's weight, cut and reordered as llama.cpp has it."""

    def __init__(self, model: HuggingFace, name: str, tensor: TensorInfo, place: Place) -> None:
        architecture = ARCHITECTURES[model.served.architecture]
        n_in, n_out = tensor.shape[:2]
        experts = tensor.shape[2] if place.stacked else 1
        self.shape = n_out * experts, n_in
        self._plain = _Plain(model.file(name), name)
        self._n_out = n_out
        whole = place.kind in {EMBEDDING, HEAD}
        self._order = None if whole else _index(row_order(model.served, place, n_out))
        self._columns = _index(column_order(model.served, place, n_in))
        experts_swapped = architecture.experts is not None and architecture.experts.interleaved
        dense_swapped = architecture.fan_in_fan_out and place.kind not in {EMBEDDING, HEAD}
        self._swapped = experts_swapped if place.stacked else dense_swapped
        expected = n_in * n_out * experts * (1 if place.rows.value == "all" else 2)
        if self._plain.shape[0] * self._plain.shape[1] != expected:
            shape = model.file(name).entries[name].shape
            raise ConvertError(
                f"{model.path}: {name!r} is {shape}, which is not {tensor.name!r} {tensor.shape[::-1]} of "
                f"{model.served.path.name}: the two are of different models."
            )
        self._wide = expected // (n_in * experts)  # rows of the module, of one expert

    def rows(self, begin: int, end: int) -> Floats:
        expert, first = divmod(begin, self._n_out)
        if end > (expert + 1) * self._n_out:  # over the edge of an expert
            edge = (expert + 1) * self._n_out
            return np.concatenate([self.rows(begin, edge), self.rows(edge, end)])
        wanted = np.arange(first, first + end - begin)
        if self._order is not None:
            wanted = self._order[wanted]
        values = self._module_rows(expert, wanted)
        return values if self._columns is None else values[:, self._columns]

    def _module_rows(self, expert: int, wanted: Index) -> Floats:
        if self._swapped:  # stored (n_in, n_out)
            n_in = self.shape[1]
            stored = self._plain.rows(expert * n_in, (expert + 1) * n_in)
            return np.ascontiguousarray(stored.T[wanted])
        low, high = int(wanted.min()), int(wanted.max()) + 1
        stored = self._plain.rows(expert * self._wide + low, expert * self._wide + high)
        return stored[wanted - low]


def _index(order: Order | None) -> Index | None:
    return None if order is None else np.array(order, np.int64)


class _Stacked:
    """Experts that are a module each."""

    def __init__(self, experts: list[_HfRows]) -> None:
        self._experts = experts
        self._n_out, n_in = experts[0].shape
        self.shape = self._n_out * len(experts), n_in

    def rows(self, begin: int, end: int) -> Floats:
        return np.concatenate(list(self._pieces(begin, end)))

    def _pieces(self, begin: int, end: int) -> Iterator[Floats]:
        while begin < end:
            expert, first = divmod(begin, self._n_out)
            last = min(self._n_out, first + end - begin)
            yield self._experts[expert].rows(first, last)
            begin += last - first


def _files(path: Path) -> dict[str, SafetensorsFile]:
    """Each tensor's file."""
    index = path / INDEX
    if not index.is_file():
        if not (path / WHOLE).is_file():
            raise ConvertError(f"{path}: there is neither {WHOLE} nor {INDEX}: not a directory of weights.")
        file = SafetensorsFile(path / WHOLE)
        return dict.fromkeys(file.entries, file)
    try:
        names = json.loads(index.read_bytes())["weight_map"]
        opened = {name: SafetensorsFile(path / name) for name in sorted(set(names.values()))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(f"{index}: damaged: {error}.") from error
    for tensor, name in names.items():
        if tensor not in opened[name].entries:
            raise ConvertError(f"{index}: {name} does not hold {tensor!r}.")
    return {tensor: opened[name] for tensor, name in names.items()}
