"""Where the data of a job file lies: beside the file, where the command runs, or on a hub."""

from __future__ import annotations

import re
from pathlib import Path

HUB = "hf:"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
_SLICE = re.compile(r"(?P<split>[\w.-]+)\[(?P<begin>\d*)%?:(?P<end>-?\d*)(?P<unit>%?)\]")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def located(name: str, folder: Path) -> str:
    """`name` as the command must be given it: a path from the job file's folder, else as it stands.

    A hub id, an uploaded file's id and a path that exists from here stay as they are.
    """
    if name.startswith((HUB, "file-")):
        return name
    path = Path(name).expanduser()
    if path.is_absolute():
        return str(path)
    beside = folder / path
    if beside.exists():
        return str(beside)
    if path.exists() or is_repository(name):
        return name
    return str(beside)  # where it was looked for, in the message that it is not there


def is_repository(name: str) -> bool:
    """OWNER/NAME, and no file of a kind that holds rows."""
    return _REPOSITORY.fullmatch(name) is not None and Path(name).suffix.lower() not in SUFFIXES


def is_hub_id(name: str, folder: Path) -> bool:
    """OWNER/NAME that is no path here."""
    if name.startswith(HUB):
        return True
    return is_repository(name) and not Path(located(name, folder)).exists()


def sliced(split: str) -> tuple[str, float | None]:
    """A split of the hub's without its slice, and how large a part the slice is.

    None: no slice, or one that is counted in rows.

    >>> sliced("train[:5%]"), sliced("train[90%:]"), sliced("test"), sliced("train[:100]")
    (('train', 0.05), ('train', 0.1), ('test', None), ('train', None))
    """
    found = _SLICE.fullmatch(split)
    if found is None:
        return split, None
    begin, end = int(found["begin"] or 0), int(found["end"] or 100)
    if "%" not in split:
        return found["split"], None
    return found["split"], round((end - begin) % 100 / 100, 6) or None
