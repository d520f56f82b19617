"""Orders of rows as llama.cpp's own converter makes them: with numpy, where ours are plain lists."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from llamaleon_convert.architectures import Place, Rows
from llamaleon_convert.header import Header
from llamaleon_convert.order import column_order, interleaved_halves, row_order


@pytest.mark.parametrize(("rows", "heads"), [(8, 1), (8, 2), (96, 3), (4096, 32)])
def test_interleaved_halves(rows: int, heads: int) -> None:
    expected = np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).ravel()
    assert interleaved_halves(rows, heads) == expected.tolist()


@pytest.mark.parametrize(("keys", "values", "width"), [(1, 1, 4), (2, 6, 1), (4, 8, 16), (3, 3, 5)])
@pytest.mark.parametrize("before", [0, 7])
def test_values_by_turns(keys: int, values: int, width: int, before: int) -> None:
    base = _hybrid(keys, values, values * width)
    turned = np.arange(values * width).reshape(keys, values // keys, -1).swapaxes(0, 1).ravel() + before
    qkv, out = _place("attn_qkv"), _place("ssm_out")
    assert row_order(base, qkv, before + values * width) == [*range(before), *turned.tolist()]
    assert column_order(base, out, values * width) == (turned - before).tolist()
    one_each = np.arange(values).reshape(keys, values // keys).T.ravel()
    assert row_order(base, _place("ssm_alpha"), values) == one_each.tolist()


def _place(kind: str) -> Place:
    return Place(f"blk.0.{kind}.weight", kind, 0, Rows.ALL)


def _hybrid(keys: int, values: int, inner: int) -> Header:
    numbers: dict[str, Any] = {
        "ssm.group_count": keys,
        "ssm.time_step_rank": values,
        "ssm.inner_size": inner,
    }
    base = SimpleNamespace(architecture="qwen35", path=Path("base.gguf"), model_value=numbers.get)
    return cast(Header, base)
