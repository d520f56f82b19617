"""The grammar of the `model` field."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.names import (
    Part,
    check_adapter_name,
    check_base_name,
    parse_blend,
    split_base,
)

ADAPTERS = st.from_regex(r"[A-Za-z0-9áéñü][A-Za-z0-9áéñü_.-]{0,20}", fullmatch=True)
WEIGHTS = st.floats(allow_nan=False, allow_infinity=False, width=32)
PARTS = st.builds(Part, ADAPTERS, st.none() | st.integers(0, 10**6), WEIGHTS)
BASES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=30)


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_what_is_written_is_read_back(parts: list[Part]) -> None:
    assert parse_blend("+".join(map(str, parts))) == parts


@given(BASES, st.lists(BASES, max_size=4), st.lists(PARTS, min_size=1, max_size=3))
def test_the_longest_known_base_wins(base: str, others: list[str], parts: list[Part]) -> None:
    blend = "+".join(map(str, parts))
    model = f"{base}+{blend}"
    found, rest = split_base(model, [base, *others])
    assert found is not None
    assert len(found) >= len(base)
    assert model == found + ("+" + rest if rest or model != found else "")
    if not any(other != base and model.startswith(other) for other in others):
        assert (found, rest) == (base, blend)


@given(st.text(max_size=40))
def test_any_text_is_a_blend_or_none_and_never_a_surprise(text: str) -> None:
    try:
        parts = parse_blend(text)
    except BadRequest:
        return
    assert parts is None or all(math.isfinite(part.weight) for part in parts)


@pytest.mark.parametrize(
    ("model", "bases", "expected"),
    [
        ("qwen2.5:0.5b", ["qwen2.5:0.5b"], ("qwen2.5:0.5b", "")),
        ("org/m:q4+sql@3", ["org/m:q4"], ("org/m:q4", "sql@3")),
        ("c++", ["c", "c++"], ("c++", "")),
        ("c+++a", ["c", "c++"], ("c++", "a")),
        ("c+a", ["c", "c++"], ("c", "a")),
        ("ca", ["c"], (None, "ca")),
    ],
)
def test_bases_may_contain_anything(model: str, bases: list[str], expected: tuple[str | None, str]) -> None:
    assert split_base(model, bases) == expected


@pytest.mark.parametrize(
    "text", ["", "+", "a+", "a*", "a@", "a@x", "a*1e+3", "a b", "-a", ".a", "a@1@2", "a/b"]
)
def test_what_is_no_blend(text: str) -> None:
    assert parse_blend(text) is None


def test_a_weight_beyond_floats_is_named() -> None:
    with pytest.raises(BadRequest, match="not a finite number"):
        parse_blend("a*1" + "0" * 400)


@pytest.mark.parametrize(
    "name", ["", "a+b", "a*b", "a@b", "a:b", "../x", ".hidden", "a b", "x" * 97, "a\n", "名" * 86]
)
def test_names_that_cannot_name_an_adapter(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_adapter_name(name)
    assert caught.value.param == "suffix"


@pytest.mark.parametrize("name", ["sql", "extracción-2", "a.b_c-d", "7", "名" * 85])
def test_names_that_can(name: str) -> None:
    assert check_adapter_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "ft:x", "a\tb", "x" * 201])
def test_names_that_cannot_name_a_base(name: str) -> None:
    with pytest.raises(BadRequest):
        check_base_name(name)


@pytest.mark.parametrize(
    "name", ["a*" + "1" * 50_000 + "x", "a@" + "1" * 50_000, "a*1e" + "1" * 50_000 + "x"]
)
def test_a_name_as_long_as_a_request_may_be_is_read_at_once(name: str) -> None:
    """With a number tried in every division this took minutes, and everybody waited."""
    began = time.monotonic()
    assert parse_blend(name) is None
    assert time.monotonic() - began < 30
