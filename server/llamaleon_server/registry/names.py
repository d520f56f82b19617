"""The grammar of the `model` field. Pure text; `resolve.py` gives it meaning.

model    = ft-name | BASE | BASE "+" blend | blend
blend    = part { "+" part }
part     = ADAPTER [ "@" version ] [ "*" weight ]
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from msgspec import Struct

from llamaleon_server.errors import BadRequest

MAX_NAME = 96  # a suffix has at most 64; checkpoints append theirs
MAX_NAME_BYTES = 255  # of a directory's name; letters may take four each
_NAME = r"[^\W_][\w.-]*"
_ADAPTER = re.compile(_NAME)
# No exponent sign "+": it separates the parts of a blend. Possessive: digits of a request's length must not
# be tried in every division.
WEIGHT = r"-?(?:\d++(?:\.\d*+)?|\.\d++)(?:e-?\d++)?"
_PART = re.compile(rf"(?P<name>{_NAME})(?:@(?P<version>\d{{1,9}}))?(?:\*(?P<weight>{WEIGHT}))?")


class Part(Struct, frozen=True):
    """One adapter of a blend; version None is the latest deployed, weight is dimensionless."""

    adapter: str
    version: int | None = None
    weight: float = 1.0

    def __str__(self) -> str:
        version = "" if self.version is None else f"@{self.version}"
        weight = "" if self.weight == 1.0 else f"*{self.weight:.17g}".replace("e+", "e")
        return f"{self.adapter}{version}{weight}"


def check_adapter_name(name: str, param: str = "suffix") -> str:
    """Raises: BadRequest naming `param` unless `name` can stand in the `model` field and as a directory."""
    if len(name) > MAX_NAME or not _ADAPTER.fullmatch(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise BadRequest(
            f"{name!r} cannot name an adapter: use 1 to {MAX_NAME} letters, digits, '.', '_' or '-', "
            f"beginning with a letter or digit, {MAX_NAME_BYTES} bytes at most.",
            param=param,
        )
    return name


def check_base_name(name: str) -> str:
    if not name or len(name) > 200 or not name.isprintable() or " " in name or name.startswith("ft:"):
        raise BadRequest(
            f"{name!r} cannot name a base model: use up to 200 printable characters without spaces, "
            "not beginning with 'ft:'.",
            param="name",
        )
    return name


def check_made_name(name: str, param: str = "model") -> str:
    """Raises: BadRequest unless a made model can have this name: what `+`, `*` and `@` mean stays certain."""
    if (
        not name
        or len(name) > 200
        or not name.isprintable()
        or set(name) & set(" +*@")
        or name.startswith("ft:")
    ):
        raise BadRequest(
            f"{name!r} cannot name a model: use up to 200 printable characters without spaces, '+', '*' and "
            "'@', not beginning with 'ft:'.",
            param=param,
        )
    return name


def split_base(model: str, bases: Iterable[str]) -> tuple[str | None, str]:
    """The longest known base that `model` begins with, and the blend after its `+`.

    >>> split_base("qwen2.5:0.5b+sql", ["qwen2.5", "qwen2.5:0.5b"])
    ('qwen2.5:0.5b', 'sql')
    >>> split_base("sql@2", ["qwen2.5"])
    (None, 'sql@2')
    """
    known = [name for name in bases if model == name or model.startswith(f"{name}+")]
    if not known:
        return None, model
    longest = max(known, key=len)
    return longest, model[len(longest) + 1 :]


def parse_blend(text: str) -> list[Part] | None:
    """The parts of a blend, or None if `text` is not one.

    Raises:
        BadRequest: a weight that is not finite.
    """
    parts = []
    for piece in text.split("+"):
        match = _PART.fullmatch(piece)
        if match is None:
            return None
        version = match["version"]
        weight = 1.0 if match["weight"] is None else float(match["weight"])
        if not math.isfinite(weight):
            raise BadRequest(
                f"The weight of `{match['name']}` in `{text}` is not a finite number.", param="model"
            )
        parts.append(Part(match["name"], None if version is None else int(version), weight))
    return parts
