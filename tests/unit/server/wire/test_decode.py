"""From bytes to shapes: each mistake names its place."""

from __future__ import annotations

import msgspec
import pytest

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import decode


class Inner(msgspec.Struct):
    text: str
    numbers: list[int] = []


class Outer(msgspec.Struct):
    name: str
    inner: list[Inner] = []
    bias: dict[int, float] = {}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b'{"name": 1}', "name", "expected `str`, got `int`"),
        (b'{"name": "a", "inner": [{"text": "b"}, {"text": null}]}', "inner[1].text", "expected `str`"),
        (b'{"name": "a", "inner": [{}]}', "inner[0].text", "required"),
        (b'{"name": "a", "inner": [{"text": "b", "numbers": [1, "2"]}]}', "inner[0].numbers[1]", "got `str`"),
        (b'{"name": "a", "bias": {"x": 1}}', "bias", "expected `int`"),
        (b'{"name": "a", "bias": {"1": "x"}}', "bias", "expected `float`"),
        (b"{}", "name", "required"),
        (b"3", None, "wrong shape"),
        (b'{"name": "a"', None, "not valid JSON"),
        (b'{\n "name":\n  oops}', None, "line 3, column 3"),
        (b"[" * 100_000, None, ""),
        (b'{"name": "\xff\xfe"}', None, "UTF-8"),
    ],
)
def test_mistakes_are_named(body: bytes, param: str | None, words: str) -> None:
    with pytest.raises(BadRequest) as error:
        decode(body, Outer)
    assert error.value.param == param
    assert words in error.value.message
    assert error.value.message.endswith(".")


def test_unknown_fields_are_ignored() -> None:
    assert decode(b'{"name": "\xc3\xb1", "new_field": {"a": [1]}}', Outer).name == "ñ"
