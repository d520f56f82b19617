"""In which order llama.cpp keeps the rows and columns that transformers keeps in another.

Every reordering is a list of places: `served[i] = weight[order[i]]`. No numpy here: rows are often only
copied, and importing it takes longer than that.
"""

from __future__ import annotations

from llamaleon_convert.architectures import ARCHITECTURES, Place, Rows
from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header

Order = list[int]


def module_rows(place: Place, rows: int) -> int:
    """How many output rows the module has of which `place` takes `rows`."""
    return rows if place.rows is Rows.ALL else 2 * rows


def row_order(base: Header, place: Place, rows: int) -> Order | None:
    """For each of the tensor's `rows`, which of the module's rows it is; None if they are the same."""
    if place.rows is not Rows.ALL:
        begins = {Rows.FIRST: (0, 1), Rows.SECOND: (rows, 1), Rows.EVEN: (0, 2), Rows.ODD: (1, 2)}
        begin, step = begins[place.rows]
        return [begin + step * row for row in range(rows)]
    architecture = ARCHITECTURES[base.architecture]
    if architecture.interleaves_heads and place.kind in {"attn_q", "attn_k"}:
        return interleaved_halves(rows, _heads(base, place, rows))
    if architecture.tiles_value_heads and place.kind in {"attn_qkv", "attn_gate", "ssm_alpha", "ssm_beta"}:
        return _tiled_values(base, rows)
    return None


def column_order(base: Header, place: Place, columns: int) -> Order | None:
    """The same of the input's columns."""
    if ARCHITECTURES[base.architecture].tiles_value_heads and place.kind == "ssm_out":
        return _tiled_values(base, columns)
    return None


def interleaved_halves(rows: int, heads: int) -> Order:
    """Within each head, row i of the first half and row i of the second half become neighbours.

    Source: llama.cpp `conversion/llama.py`, `LlamaModel.permute`; undoes transformers' own reordering.
    """
    half = rows // heads // 2
    return [
        2 * half * head + half * part + row for head in range(heads) for row in range(half) for part in (0, 1)
    ]


def _heads(base: Header, place: Place, rows: int) -> int:
    count = base.model_value("attention.head_count")
    if place.kind == "attn_k":
        count = base.model_value("attention.head_count_kv") or count
    if isinstance(count, list) and place.block is not None and place.block < len(count):
        count = count[place.block]
    if not isinstance(count, int) or count <= 0 or rows % (2 * count):
        raise ConvertError(
            f"{base.path}: {rows} rows of {place.tensor!r} do not divide into {count!r} heads; "
            "its attention.head_count metadata is damaged."
        )
    return count


def _tiled_values(base: Header, size: int) -> Order:
    """Heads of values, grouped by the key they belong to, in turns instead; what stands before stays.

    Source: llama.cpp `conversion/qwen.py`, `_LinearAttentionVReorderBase`.
    """
    keys, values = (base.model_value(f"ssm.{name}") for name in ("group_count", "time_step_rank"))
    inner = base.model_value("ssm.inner_size")
    counts = [value for value in (keys, values, inner) if isinstance(value, int) and value > 0]
    if len(counts) != 3 or counts[1] % counts[0] or counts[2] % counts[1]:
        raise ConvertError(f"{base.path}: its ssm.* metadata is damaged: {keys}, {values}, {inner}.")
    n_keys, n_values, n_inner = counts
    width = 1 if size == n_values else n_inner // n_values  # one row a head (alpha, beta), or all of its rows
    before, of_a_key = size - width * n_values, n_values // n_keys
    heads = [key * of_a_key + value for value in range(of_a_key) for key in range(n_keys)]
    return [*range(before), *(before + head * width + row for head in heads for row in range(width))]
