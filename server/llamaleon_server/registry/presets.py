"""Presets for each model in one file, `$LLAMALEON_HOME/models.yaml`, read again when it changes.

    "qwen*":                    # a name, or a pattern
      context_tokens: 16384     # engine options: the fields of settings.EngineSettings
      kv_type: q8_0
      keep_alive: 30m
    mario:
      temperature: 0.2          # sampling, as a Modelfile's PARAMETERs
      system: You are Mario.

Of what several entries say, a name wins over patterns, and a later pattern over an earlier one.
"""

from __future__ import annotations

import logging
import threading
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from rapidfuzz import process

from llamaleon_server.chat.ask import Preset
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.go_template import jinja_of
from llamaleon_server.registry.parameters import PREDICT, SAMPLING, STOP, ParameterError, checked, meaning_of
from llamaleon_server.settings import EngineSettings, bytes_of
from llamaleon_server.wire.keep_alive import parse_keep_alive

log = logging.getLogger(__name__)

NOT_HERE = {"memory_bytes", "least_context_tokens"}  # the server's own
ENGINE = [field for field in EngineSettings.__struct_fields__ if field not in NOT_HERE]
TEXTS = ("system", "template")
_KINDS = {field.name: field.type for field in msgspec.structs.fields(EngineSettings)}


class PresetsError(BadRequest):
    """`line` counts from 1."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}, line {line}: {problem}", param="models.yaml")
        self.line = line


class Said(Struct, frozen=True, kw_only=True):
    """What the file says about a model. `keep_alive` in seconds, None for ever, UNSET: nothing was said."""

    engine: dict[str, Any] = {}
    preset: Preset = Preset()
    keep_alive: float | UnsetType | None = UNSET

    def over(self, other: Said) -> Said:
        """This, and the other's word where this says nothing."""
        return Said(
            engine={**other.engine, **self.engine},
            preset=preset_over(self.preset, other.preset),
            keep_alive=other.keep_alive if self.keep_alive is UNSET else self.keep_alive,
        )


NOTHING = Said()


def preset_over(first: Preset, second: Preset) -> Preset:
    """The first, and the second's word where it says nothing."""
    return Preset(
        system=second.system if first.system is None else first.system,
        template=second.template if first.template is None else first.template,
        messages=first.messages or second.messages,
        wanted=first.wanted.over(second.wanted),
        stop=first.stop or second.stop,
        max_tokens=second.max_tokens if first.max_tokens is None else first.max_tokens,
        context_tokens=second.context_tokens if first.context_tokens is None else first.context_tokens,
    )


class Presets:
    """Thread-safe. While the file has a mistake, what it said before holds; `problem` says what is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._entries: dict[str, Said] = {}

    @property
    def stamp(self) -> tuple[int, int] | None:
        """Changes when the file does."""
        try:
            stat = self.path.stat()
        except OSError:  # there need not be one
            return None
        return stat.st_mtime_ns, stat.st_size

    def check(self) -> None:
        """Raises: PresetsError naming the line."""
        self._entries = _read(self.path) if self.stamp is not None else {}

    def exact(self, name: str) -> Said:
        """What is said about the model of this very name."""
        return self._now().get(name, NOTHING)

    def patterns(self, *names: str) -> Said:
        """What the patterns say that match one of the names."""
        said = NOTHING
        for pattern, entry in self._now().items():
            if is_pattern(pattern) and any(fnmatchcase(name, pattern) for name in names):
                said = entry.over(said)
        return said

    def _now(self) -> dict[str, Said]:
        stamp = self.stamp
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._entries = _read(self.path) if stamp is not None else {}
                    self.problem = None
                except PresetsError as error:
                    self.problem = error.message
                    log.warning("%s What it said before holds.", error.message)
            return self._entries


def is_pattern(name: str) -> bool:
    return any(letter in name for letter in "*?[")


def _read(path: Path) -> dict[str, Said]:
    """Raises: PresetsError."""
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise PresetsError(path, line, f"this is not YAML: {error.problem}.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PresetsError(path, 1, f"this cannot be read: {error}.") from error
    if root is None:
        return {}
    return {name: _entry(path, name, node) for name, node in _pairs(path, root, "a model's name")}


def _pairs(path: Path, node: Any, what: str) -> list[tuple[str, Any]]:
    """Keys and value nodes of a mapping."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise PresetsError(path, _line(node), f"{what} and a colon are expected here.")
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in found:
            problem = (
                f"`{key.value}` comes twice." if isinstance(key, yaml.ScalarNode) else "this is no name."
            )
            raise PresetsError(path, _line(key), problem)
        found[key.value] = value
    return list(found.items())


def _entry(path: Path, model: str, node: Any) -> Said:
    engine: dict[str, Any] = {}
    texts: dict[str, str] = {}
    parameters: list[tuple[str, Any]] = []
    keep_alive: float | UnsetType | None = UNSET
    for key, at in _pairs(path, node, "an option"):
        value = _value(path, at)
        try:
            if key in ENGINE:
                engine[key] = _engine_value(key, value)
            elif key == "keep_alive":
                keep_alive = parse_keep_alive(value)
            elif key in TEXTS:
                texts[key] = msgspec.convert(value, str)
            elif key in {*SAMPLING, PREDICT, "max_tokens", STOP}:
                parameters.append(_parameter(PREDICT if key == "max_tokens" else key, value))
            else:
                raise ParameterError(f"`{key}` is no option of a model.{_nearest(key)}")
        except (ValueError, BadRequest) as error:
            message = error.message if isinstance(error, BadRequest) else str(error)
            message = message if key in message else f"`{key}`: {message}"
            raise PresetsError(path, _line(at), message) from error
    return Said(engine=engine, preset=_preset(path, node, model, texts, parameters), keep_alive=keep_alive)


def _preset(
    path: Path, node: Any, model: str, texts: dict[str, str], parameters: list[tuple[str, Any]]
) -> Preset:
    meaning = meaning_of(parameters)
    try:
        template, _ = jinja_of(texts.get("template"), has_own=False)
    except BadRequest as error:
        raise PresetsError(path, _line(node), f"of `{model}`: {error.message}") from error
    return Preset(
        system=texts.get("system"),
        template=template,
        wanted=meaning.wanted,
        stop=meaning.stop,
        max_tokens=meaning.max_tokens,
    )


def _parameter(key: str, value: Any) -> tuple[str, Any]:
    for one in value if key == STOP and isinstance(value, list) else [value]:
        checked(key, one)
    return key, value


def _engine_value(key: str, value: Any) -> Any:
    if key.endswith("_bytes") and isinstance(value, str):
        value = bytes_of(value)
    given = msgspec.convert(value, _KINDS[key], strict=False)  # YAML takes 1e6 for a text
    EngineSettings(**{key: given})
    return given


def _value(path: Path, node: Any) -> Any:
    import yaml

    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise PresetsError(path, _line(node), str(error).splitlines()[0]) from error
    finally:
        loader.dispose()


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


def _nearest(key: str) -> str:
    known = [*ENGINE, *SAMPLING, "keep_alive", "max_tokens", STOP, *TEXTS]
    found = process.extractOne(key, known, score_cutoff=60)
    return f" Did you mean {found[0]}?" if found else ""
