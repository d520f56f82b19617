"""Models in several files, `NAME-00001-of-00003.gguf`: how their parts are called.

llama.cpp finds the other parts by the name of the first, and so does everybody else.

Source: https://github.com/ggml-org/llama.cpp/blob/master/src/llama.cpp, `llama_split_path`
"""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

_PART = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


class Part(Struct, frozen=True):
    """`number` counts from 1, unlike `split.no` inside the file."""

    prefix: str
    number: int
    count: int

    def name(self, number: int) -> str:
        return f"{self.prefix}-{number:05d}-of-{self.count:05d}.gguf"


def part_of(name: str) -> Part | None:
    """What a file name or path says about itself; None if it is no part of several.

    >>> part_of("qwen-00002-of-00003.gguf").name(1)
    'qwen-00001-of-00003.gguf'
    """
    found = _PART.fullmatch(name)
    if found is None or not 1 <= int(found["number"]) <= int(found["count"]):
        return None
    part = Part(found["prefix"], int(found["number"]), int(found["count"]))
    return part if part.count > 1 else None


def files_of(path: Path) -> list[Path]:
    """The files of the model that begins at `path`, whether they are there or not: mostly itself alone."""
    part = part_of(path.name)
    if part is None or part.number != 1:
        return [path]
    return [path.with_name(part.name(number)) for number in range(1, part.count + 1)]


def stem_of(path: Path) -> str:
    """A file's stem, without what says which part it is.

    >>> stem_of(Path("qwen-00001-of-00003.gguf"))
    'qwen'
    """
    part = part_of(path.name)
    return path.stem if part is None else part.prefix
