"""Which files of a hub's data set a split is made of. Pure.

As the hub's own `datasets` library finds them: what the card of the repository says, else by the names.
https://huggingface.co/docs/hub/datasets-manual-configuration and .../datasets-file-names-and-splits
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from msgspec import Struct

from llamaleon_server.errors import BadRequest, NotFound

KINDS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")  # in this order, where a split has several
CONVERTED = "refs/convert/parquet"  # where the hub keeps what it converted itself: CONFIG/SPLIT/0000.parquet
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_NAME = re.compile(
    r"(?:hf:|hf://datasets/|https://(?:www\.)?(?:huggingface|hf)\.co/datasets/)?"
    r"(?P<repo>\w[\w.-]*(?:/\w[\w.-]*)?)(?:/(?P<config>\w[\w.-]*))?(?:@(?P<revision>[\w./-]+))?(?::(?P<split>\w[\w.-]*))?",
    re.ASCII,
)
REPO = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?", re.ASCII)
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
MAX_NAME = 300


class DatasetName(Struct, frozen=True, kw_only=True):
    """`hf:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]`; a config is the hub's word for one of several tables."""

    repo: str
    config: str | None = None
    revision: str | None = None
    split: str = "train"


def parse_dataset_name(text: str) -> DatasetName:
    """Raises: BadRequest."""
    found = _NAME.fullmatch(text.strip()) if len(text) <= MAX_NAME else None
    revision = found["revision"] if found else None
    if found is None or ".." in text or (revision or "").startswith("/"):
        raise BadRequest(
            f"{text!r} names no data set of the hub: write hf:OWNER/NAME, and if need be /CONFIG, @REVISION "
            "and :SPLIT behind it.",
            param="name",
        )
    return DatasetName(
        repo=found["repo"], config=found["config"], revision=revision, split=found["split"] or "train"
    )


def files_of(name: DatasetName, paths: Sequence[str], card: Mapping[str, Any]) -> list[str]:
    """The files of the split, in order; none if the repository has no files that we read.

    Raises:
        NotFound: it has some, but not this config or split; the message lists what there is.
        BadRequest: several configs, and none is named or the default.
    """
    readable = [path for path in sorted(paths) if PurePosixPath(path).suffix.lower() in KINDS]
    configs = [one for one in card.get("configs") or () if isinstance(one, dict) and one.get("data_files")]
    splits = _by_card(name, readable, configs) if configs else _by_names(name, readable)
    if not splits:
        return []
    wanted = name.split if name.split in splits else WORDS.get(name.split.lower(), name.split)
    if wanted not in splits:
        raise NotFound(
            f"{name.repo} has no split {name.split!r}; it has {', '.join(sorted(splits))}.", param="name"
        )
    return _of_one_kind(splits[wanted])


def _by_card(
    name: DatasetName, paths: Sequence[str], configs: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    named = {str(config.get("config_name") or "default"): config for config in configs}
    default = next((key for key, config in named.items() if config.get("default")), "default")
    config = named[_config(name, list(named), default)]
    splits: dict[str, list[str]] = {}
    for split, patterns in _patterns(config["data_files"]):
        folder = f"{config['data_dir']}/" if config.get("data_dir") else ""
        wanted = [f"{folder}{pattern}".removeprefix("./") for pattern in patterns]
        found = [path for path in paths if any(_matches(path, pattern) for pattern in wanted)]
        if found:
            splits.setdefault(split, []).extend(found)
    return splits


def _patterns(value: Any) -> list[tuple[str, list[str]]]:
    """`data_files` of a card: a pattern, several, or several by split."""
    if isinstance(value, str):
        return [("train", [value])]
    if isinstance(value, dict):
        value = [{"split": split, "path": path} for split, path in value.items()]
    if not isinstance(value, list):
        return []
    found = [("train", [one]) for one in value if isinstance(one, str)]
    for one in value:
        if isinstance(one, dict) and one.get("path"):
            path = one["path"]
            found.append((str(one.get("split", "train")), path if isinstance(path, list) else [str(path)]))
    return found


def _matches(path: str, pattern: str) -> bool:
    # `**/` may be no folder at all, which fnmatch does not know.
    return fnmatchcase(path, pattern) or fnmatchcase(path, pattern.replace("**/", ""))


def _by_names(name: DatasetName, paths: Sequence[str]) -> dict[str, list[str]]:
    """`CONFIG/SPLIT/0000.parquet`, `data/SPLIT-00000-of-00002.parquet`, `train.jsonl`, `dev_v2.csv`."""
    if name.revision == CONVERTED or name.config is not None:
        configs = list(dict.fromkeys(path.split("/")[0] for path in paths if "/" in path))
        chosen = _config(name, configs, "default")
        paths = [path for path in paths if path.startswith(f"{chosen}/")]
    splits: dict[str, list[str]] = {}
    for path in paths:
        splits.setdefault(_split_of(path), []).append(path)
    return splits


def _split_of(path: str) -> str:
    stem = PurePosixPath(path).stem
    shard = _SHARD.fullmatch(stem)
    if shard:
        return WORDS.get(shard["split"].lower(), shard["split"])
    folders = PurePosixPath(path).parts[:-1]
    if stem.isdigit() and folders:  # as the hub converts
        return WORDS.get(folders[-1].lower(), folders[-1])
    for part in (stem, *reversed(folders)):
        for word in re.split(r"[^A-Za-z]+", part.lower()):
            if word in WORDS:
                return WORDS[word]
    return "train"


def _config(name: DatasetName, configs: Sequence[str], default: str) -> str:
    listed = ", ".join(configs)
    if name.config is not None:
        if name.config not in configs:
            raise NotFound(f"{name.repo} has no config {name.config!r}; it has {listed}.", param="name")
        return name.config
    if len(configs) == 1:
        return configs[0]
    if default not in configs:
        raise BadRequest(
            f"{name.repo} has several configs, {listed}: name one, as in hf:{name.repo}/CONFIG.",
            param="name",
        )
    return default


def _of_one_kind(paths: Sequence[str]) -> list[str]:
    for kind in KINDS:
        found = [path for path in paths if path.lower().endswith(kind)]
        if found:
            return found
    return []
