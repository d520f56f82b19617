"""Importance matrices: what is read of a file of llama.cpp's, and what is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from llamaleon_server.binding.errors import BindingError
from llamaleon_server.binding.imatrix import read_imatrix


def write(path: Path, sums: list[float], counts: list[float] | None, kind: str = "imatrix") -> Path:
    writer = gguf.GGUFWriter(path, "none")
    writer.add_type(kind)
    writer.add_tensor("blk.0.ffn_up.weight.in_sum2", np.array(sums, np.float32))
    if counts is not None:
        writer.add_tensor("blk.0.ffn_up.weight.counts", np.array(counts, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_means_by_column_and_expert(tmp_path: Path) -> None:
    found = read_imatrix(write(tmp_path / "a.gguf", [2, 4, 9, 9, 5, 10], [2, 0, 5]))
    assert found["blk.0.ffn_up.weight"].tolist() == [1, 2, 1, 1, 1, 2], "of no text: all alike"


@pytest.mark.parametrize(
    ("sums", "counts", "kind", "problem"),
    [
        ([1, 2, 3], [1, 1], "imatrix", "has 3 sums for 2 counts"),
        ([1, 2, 3], None, "imatrix", "has no 'blk.0.ffn_up.weight.counts' beside it"),
        ([1, 2], [1], "model", "general.type is 'model'"),
    ],
)
def test_what_is_none(
    tmp_path: Path, sums: list[float], counts: list[float] | None, kind: str, problem: str
) -> None:
    with pytest.raises(BindingError, match=problem):
        read_imatrix(write(tmp_path / "a.gguf", sums, counts, kind))
