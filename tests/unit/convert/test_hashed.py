"""The SHA-256 is of what lies in the file, however it was cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llamaleon_convert.hashed import Hashed


@pytest.mark.parametrize("sizes", [[], [0], [1, 2, 3], [10], [9, 1, 30, 4], [100, 100, 100]])
def test_the_sum_is_that_of_the_file(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hashed, "PIECE_BYTES", 10)
    path = tmp_path / "file"
    with path.open("wb") as file, Hashed(file) as hashed:
        for number, size in enumerate(sizes):
            data = bytes([number]) * size
            hashed.write(data if number % 2 else memoryview(data))
    assert path.stat().st_size == sum(sizes)
    assert hashed.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
