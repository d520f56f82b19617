"""A YAML file with the line of every key, so that a mistake can be told by its place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llamaleon_clients.errors import BadInput
from llamaleon_clients.session import existing
from llamaleon_clients.words import say

MERGE = "<<"


@dataclass(frozen=True)
class Document:
    """`lines`: the line (from 1) of every key, by its path, e.g. `datasets[0].type`."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)

    def mistake(self, key: str, reason: str) -> BadInput:
        """The file, the line, the key, and what is wrong with it."""
        line = self.lines.get(key)
        if line is None:
            return BadInput(say("{path}: `{key}`: {reason}", path=self.path, key=key, reason=reason))
        return BadInput(
            say("{path}, line {line}: `{key}`: {reason}", path=self.path, line=line, key=key, reason=reason)
        )


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML 1.1 reads `2e-4` as a text; people who write it mean the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(?:\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def load(path: Path) -> Document:
    """
    Raises:
        BadInput: there is no such file, it is not YAML, or a key stands in it twice; with the line.
    """
    existing(path, say("The job file"))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(say("{path} is not UTF-8 text.", path=path)) from error
    except OSError as error:
        raise BadInput(
            say("{path} cannot be read: {reason}", path=path, reason=error.strerror or error)
        ) from error
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines: dict[str, int] = {}
        if node is not None:
            _note_lines(node, "", lines, path)
        values = {} if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise BadInput(
            say("{path}, line {line}: not YAML: {reason}", path=path, line=line, reason=error.problem)
        ) from error
    except yaml.YAMLError as error:  # a character that YAML does not have
        raise BadInput(say("{path}: not YAML: {reason}", path=path, reason=error)) from error
    except RecursionError as error:
        raise BadInput(say("{path}: nested too deeply; does an anchor hold itself?", path=path)) from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(values, dict):
        raise BadInput(say("{path}: a job file is a list of `key: value` lines.", path=path))
    return Document(path, values, lines)


def _note_lines(node: yaml.Node, prefix: str, lines: dict[str, int], path: Path) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, inner in enumerate(node.value):
            lines[f"{prefix}[{index}]"] = inner.start_mark.line + 1
            _note_lines(inner, f"{prefix}[{index}]", lines, path)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name == MERGE:
            continue
        if name in seen:
            raise BadInput(
                say(
                    "{path}, line {line}: `{key}` is given twice (first in line {first}).",
                    path=path,
                    line=line,
                    key=name,
                    first=seen[name],
                )
            )
        seen[name] = line
        where = f"{prefix}.{name}" if prefix else name
        lines[where] = line
        _note_lines(value, where, lines, path)
