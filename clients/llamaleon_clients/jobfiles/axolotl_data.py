"""Axolotl's `datasets`, `test_datasets`, `pretraining_dataset` and `val_set_size`.

What is in a shape of ours, or on a hub, goes to the server as it is. Several files, or a type whose columns
have other names, become one file of JSON lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaleon_clients.errors import BadInput
from llamaleon_clients.jobfiles import shapes
from llamaleon_clients.jobfiles.axolotl_keys import not_honoured_of_data
from llamaleon_clients.jobfiles.ours import unknown
from llamaleon_clients.jobfiles.paths import HUB, is_hub_id, located, sliced
from llamaleon_clients.jobfiles.rows import rows_of, written
from llamaleon_clients.words import say

if TYPE_CHECKING:
    from llamaleon_clients.jobfiles.axolotl import Reading

KEYS = ("datasets", "test_datasets", "pretraining_dataset", "val_set_size")
HONOURED = (
    *("path", "type", "data_files", "ds_type", "split", "name", "revision", "field", "text_column"),
    *("field_messages", "field_tools", "message_property_mappings", "message_field_role"),
    *("message_field_content", "message_field_training", "roles", "roles_to_train", "drop_system_message"),
    *("field_human", "field_model"),
)
LOADERS = ("json", "csv", "parquet", "text")  # a `path` that names how `data_files` are read
MAX_NAME = 64
ANSWERS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Source:
    """One data set. `template`: of the texts of a file that goes as it is; `rewrite`: None if it must."""

    where: str  # its key, for messages
    files: tuple[str, ...]
    rewrite: shapes.Rewrite | None
    native: bool
    template: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it can go to the server as it is."""
        return self.native and len(self.files) == 1


def read(reading: Reading) -> None:
    """Set `data`, `valid`, `text_template` and `held_out_fraction`. Raises: BadInput with the line."""
    key = "datasets" if "datasets" in reading.values else "pretraining_dataset"
    sources = _sources(reading, key)
    if not sources:
        raise BadInput(say("{path}: `datasets` is missing.", path=reading.document.path))
    tests = _sources(reading, "test_datasets")
    _set(reading, "data", sources)
    if tests:
        _set(reading, "valid", tests)
    if "val_set_size" in reading.values:
        _held_out(reading, sources, bool(tests))


def as_name(text: str) -> str:
    """What can name an adapter."""
    return (
        re.sub(r"^[^A-Za-z0-9]+", "", re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII))[:MAX_NAME] or "adapter"
    )


def _set(reading: Reading, key: str, sources: list[Source]) -> None:
    settings = reading.settings
    if len(sources) == 1 and sources[0].whole:
        template = sources[0].template
        if key == "data" or settings.get("text_template") == template:
            settings[key] = sources[0].files[0]
            if template is not None:
                settings["text_template"] = template
            return
    if key == "valid" and "text_template" in settings:
        raise reading.document.mistake(
            sources[0].where, say("its shape must be that of `datasets`: one file with the same columns.")
        )
    path = written(_together(reading, sources), f"{as_name(reading.document.path.stem)}-{key}")
    settings[key] = str(path)


def _together(reading: Reading, sources: list[Source]) -> Iterator[shapes.Row]:
    """The rows of all, in the order of the file."""
    kind: tuple[str, frozenset[str]] | None = None
    for source in sources:
        for name in source.files:
            if name.startswith(HUB):
                raise reading.document.mistake(
                    source.where,
                    say("a hub's rows are taken as they are, one data set a job: download the files first."),
                )
            for line, row in rows_of(Path(name)):
                made = _rewritten(source, name, line, row)
                found = frozenset(made.keys() - {"tools"})
                if kind is None:
                    kind = source.where, found
                if found != kind[1]:
                    raise reading.document.mistake(
                        source.where,
                        say(
                            "its rows become {found}, those of `{first}` {other}: one job learns one shape.",
                            found="/".join(sorted(found)),
                            first=kind[0],
                            other="/".join(sorted(kind[1])),
                        ),
                    )
                yield made


def _rewritten(source: Source, name: str, line: int, row: shapes.Row) -> shapes.Row:
    try:
        return row if source.rewrite is None else source.rewrite(row)
    except shapes.Lacking as error:
        raise BadInput(say("{path}, line {line}: {reason}", path=name, line=line, reason=error)) from error


def _held_out(reading: Reading, sources: list[Source], tested: bool) -> None:
    size = reading.values["val_set_size"]
    if isinstance(size, bool) or not isinstance(size, int | float) or size < 0:
        kind = say("a number from 0")
        raise reading.document.mistake(
            "val_set_size", say("{kind} is needed, not {value}.", kind=kind, value=repr(size))
        )
    if tested:
        return  # Axolotl takes the one or the other, too
    if size == 0:
        reading.warn("val_set_size", say("some rows are always held out, for the proof and the comparison"))
    elif size < 1:
        reading.settings["held_out_fraction"] = size
    else:
        data = str(reading.settings["data"])
        if data.startswith(HUB):
            reading.warn("val_set_size", say("a count of a hub's rows is not known; give a share"))
            return
        count = sum(1 for _ in rows_of(Path(data)))
        reading.settings["held_out_fraction"] = round(size / max(count, 1), 6)


# ------------------------------------------------------------ one entry


def _sources(reading: Reading, key: str) -> list[Source]:
    given = reading.values.get(key)
    if given is None:
        return []
    if isinstance(given, str | dict):  # Axolotl takes one without the list, too
        given = [{"path": given} if isinstance(given, str) else given]
    if not isinstance(given, list):
        raise reading.document.mistake(key, say("a list of data sets is needed."))
    return [_source(reading, f"{key}[{index}]", entry) for index, entry in enumerate(given)]


def _source(reading: Reading, where: str, entry: Any) -> Source:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise reading.document.mistake(where, say("a data set needs a `path`."))
    reasons = not_honoured_of_data()
    for key, value in entry.items():
        if key in HONOURED or value in (None, False):
            continue
        if key not in reasons:
            raise reading.document.mistake(f"{where}.{key}", unknown(str(key), HONOURED, reasons))
        reading.warn(f"{where}.{key}", reasons[key])
    entry = {key: value for key, value in entry.items() if value is not None}
    rewrite, native, template = _shape(reading, where, entry)
    return Source(where, _files(reading, where, entry), rewrite, native, template)


def _files(reading: Reading, where: str, entry: dict[str, Any]) -> tuple[str, ...]:
    folder, path, files = reading.document.path.parent, entry["path"], entry.get("data_files")
    if files is None and is_hub_id(path, folder):
        name = path if path.startswith(HUB) else HUB + path
        name += f"/{entry['name']}" if "name" in entry else ""
        name += f"@{entry['revision']}" if "revision" in entry else ""
        split = str(entry.get("split", "train"))
        if sliced(split)[0] != split:
            reading.warn(f"{where}.split", say("a split is taken whole"))
        return (f"{name}:{sliced(split)[0]}",)
    if "split" in entry and entry["split"] != "train":
        reading.warn(f"{where}.split", say("a file has no splits"))
    names = [path] if files is None else [files] if isinstance(files, str) else list(files)
    if files is not None and path not in LOADERS:
        if is_hub_id(path, folder):
            raise reading.document.mistake(
                f"{where}.data_files", say("single files of a hub's data set: download them first.")
            )
        names = [str(Path(path) / name) for name in names]
    found = tuple(located(str(name), folder) for name in names)
    for name in found:
        if Path(name).is_dir():
            raise reading.document.mistake(f"{where}.path", say("a folder; name its files in `data_files`."))
    return found


def _shape(
    reading: Reading, where: str, entry: dict[str, Any]
) -> tuple[shapes.Rewrite | None, bool, str | None]:
    """(how its rows become ours, whether they are ours as they stand, the template of their texts)."""
    kind = entry.get("type", "pretrain" if where.startswith("pretraining") else None)
    if kind is None:
        return None, True, None
    if reading.settings.get("method") == "dpo":
        return _of_columns(kind) if isinstance(kind, dict) else _preference(reading, where, str(kind))
    if isinstance(kind, dict):
        return shapes.formatted(kind), False, None
    base = str(kind).partition(":")[0]
    if base in ("completion", "pretrain"):
        field = str(entry.get("field") or entry.get("text_column") or str(kind).partition(":")[2] or "text")
        return shapes.text(field), True, None if field == "text" else f"{{{field}}}"
    if base in ("chat_template", "sharegpt") or base.startswith("sharegpt."):
        return _chat(reading, where, entry)
    if base in shapes.COLUMNS:
        columns = shapes.COLUMNS[base]
        return shapes.instruction(columns), columns == shapes.COLUMNS["alpaca"], None
    known = ", ".join(["chat_template", "sharegpt", "completion", *shapes.COLUMNS])
    raise reading.document.mistake(
        f"{where}.type", say("{kind} is not among {known}.", kind=repr(kind), known=known)
    )


def _chat(reading: Reading, where: str, entry: dict[str, Any]) -> tuple[shapes.Rewrite, bool, str | None]:
    field = entry.get("field_messages")
    properties = dict(_table(reading, where, entry, "message_property_mappings"))
    for name, legacy in (("role", "message_field_role"), ("content", "message_field_content")):
        if legacy in entry:
            properties[name] = entry[legacy]
    if entry.get("roles_to_train", ["assistant"]) not in (["assistant"], ["gpt"], ["assistant", "gpt"]):
        reading.warn(f"{where}.roles_to_train", say("answers are learnt, and nothing else"))
    plain = properties in ({}, {"role": "role", "content": "content"}, {"role": "from", "content": "value"})
    trained, tools = entry.get("message_field_training"), entry.get("field_tools")
    drops = bool(entry.get("drop_system_message"))
    native = plain and field in (None, "messages", "conversations") and tools in (None, "tools")
    native = native and not ({"roles", "field_human", "field_model"} & entry.keys() or trained or drops)
    given = _table(reading, where, entry, "roles")
    roles = {role: [names] if isinstance(names, str) else list(names or ()) for role, names in given.items()}
    for role, key in (("user", "field_human"), ("assistant", "field_model")):
        if key in entry:
            roles[role] = [*roles.get(role, ()), entry[key]]
    return shapes.chat(field, properties, roles, trained, tools, drop_system=drops), native, None


def _table(reading: Reading, where: str, entry: dict[str, Any], key: str) -> dict[str, Any]:
    value = entry.get(key) or {}
    if not isinstance(value, dict):
        raise reading.document.mistake(f"{where}.{key}", say("a list of `key: value` lines is needed."))
    return value


def _preference(reading: Reading, where: str, kind: str) -> tuple[shapes.Rewrite | None, bool, str | None]:
    """`chatml.intel`, `llama3.argilla`, ...: the template before the point is the GGUF's own here."""
    shape = kind.rpartition(".")[2]
    if kind.startswith("chat_template") or shape in ("default", "chatml", "llama3"):
        return None, True, None
    if shape not in shapes.PREFERENCES:
        known = ", ".join(["chat_template.default", *(f"chatml.{name}" for name in shapes.PREFERENCES)])
        raise reading.document.mistake(
            f"{where}.type", say("{kind} is not among {known}.", kind=repr(kind), known=known)
        )
    return shapes.preference(shapes.PREFERENCES[shape]), False, None


def _of_columns(kind: dict[str, Any]) -> tuple[shapes.Rewrite, bool, None]:
    """Axolotl's `type` with names of columns, of preferences."""
    prompt, chosen, rejected = (str(kind.get(f"field_{name}") or name) for name in ANSWERS)
    return shapes.preference((kind.get("field_system"), prompt, chosen, rejected)), False, None
