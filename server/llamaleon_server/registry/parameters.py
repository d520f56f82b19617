"""What the PARAMETERs of a Modelfile, and Ollama's `options`, mean here.

Ollama's names, and the names of `settings.EngineSettings` for what belongs to a whole engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct
from rapidfuzz import process

from llamaleon_server.chat.ask import Wanted
from llamaleon_server.errors import BadRequest
from llamaleon_server.settings import EngineSettings

Value = int | float | bool | str

MOST = 2**31 - 1  # of what is counted in 32 bits
REPEAT_WINDOW_TOKENS = 64  # how far back the engine's repeat penalty looks, llama.cpp's default

# name -> type, least, most (None: no limit)
SAMPLING: dict[str, tuple[type[int] | type[float], float | None, float | None]] = {
    "temperature": (float, 0, 100),
    "top_p": (float, 0, 1),
    "top_k": (int, -1, MOST),
    "min_p": (float, 0, 1),
    "seed": (int, -(2**63), 2**63 - 1),
    "repeat_penalty": (float, 1e-6, 100),
    "presence_penalty": (float, -2, 2),
    "frequency_penalty": (float, -2, 2),
}
# Ollama's name -> ours. These are fixed when the model is loaded: all models of one base share its engine.
ENGINE = {
    "num_ctx": "context_tokens",
    "num_gpu": "gpu_layers",
    "num_thread": "threads",
    "num_batch": "batch_tokens",
    "rope_frequency_base": "rope_freq_base",
    "rope_frequency_scale": "rope_freq_scale",
}
# Changes the answer and is not done here: only the value that changes nothing is taken.
NEUTRAL: dict[str, float] = {
    "mirostat": 0,
    "tfs_z": 1,
    "typical_p": 1,
    "repeat_last_n": REPEAT_WINDOW_TOKENS,
}
# No influence on the answer here; old Modelfiles have them.
IGNORED = {
    "num_keep",  # a context that is full ends the answer: nothing is ever shifted out
    "mirostat_eta",
    "mirostat_tau",
    "penalize_newline",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "embedding_only",
    "use_mlock",
    "numa",
    "num_gqa",
}
PREDICT = "num_predict"  # most tokens of an answer; -1 and -2: until the context is full
STOP = "stop"
TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class ParameterError(ValueError):
    """In words that name the parameter."""


class Meaning(Struct, frozen=True, kw_only=True):
    """`engine`: fields of EngineSettings, for whoever loads the base. `notes`: what had no effect."""

    wanted: Wanted = Wanted()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    engine: dict[str, Any] = {}
    notes: tuple[str, ...] = ()


def meaning_of(parameters: Iterable[tuple[str, Any]], field: str = "parameters") -> Meaning:
    """Of several values for one name the last counts; of `stop` all, and a list is several.

    Raises: BadRequest naming `FIELD.NAME`.
    """
    pairs = typed(parameters, field)
    values = {name: value for name, value in pairs if name != STOP}
    stops = [str(value) for name, value in pairs if name == STOP]
    predict = values.get(PREDICT)
    return Meaning(
        wanted=msgspec.convert({name: value for name, value in values.items() if name in SAMPLING}, Wanted),
        stop=tuple(dict.fromkeys(stops)),
        max_tokens=int(predict) if predict is not None and int(predict) >= 0 else None,
        engine=_engine(values),
        notes=tuple(f"PARAMETER {name} has no effect here." for name in values if name in IGNORED),
    )


def typed(parameters: Iterable[tuple[str, Any]], field: str = "parameters") -> tuple[tuple[str, Value], ...]:
    """Each with the type that it has; a list of stops as several, None left out.

    Raises: BadRequest naming `FIELD.NAME`.
    """
    found: list[tuple[str, Value]] = []
    for name, given in parameters:
        several = given if name == STOP and isinstance(given, list | tuple) else [given]
        try:
            found += [(name, checked(name, one)) for one in several if one is not None]
        except ParameterError as error:
            raise BadRequest(f"`{field}`: {error}", param=f"{field}.{name}") from error
    return tuple(found)


def checked(name: str, given: Any) -> Value:
    """The value, from text or JSON, with the type that the parameter has. Raises: ParameterError."""
    if name in SAMPLING:
        kind, least, most = SAMPLING[name]
        return _number(name, given, kind, least, most)
    if name == PREDICT:
        return _number(name, given, int, -2, MOST)
    if name == STOP:
        if not isinstance(given, str) or not given:
            raise ParameterError(f"{name} needs a text that is not empty.")
        return given
    if name in NEUTRAL:
        value = _number(name, given, float, None, None)
        if value != NEUTRAL[name]:
            raise ParameterError(f"{name} is not supported: only {NEUTRAL[name]:g}, which changes nothing.")
        return value
    if name in IGNORED:
        return given if isinstance(given, int | float | bool | str) else str(given)
    if name in ENGINE or name in EngineSettings.__struct_fields__:
        return _engine_value(name, given)
    raise ParameterError(f"{name!r} is no parameter.{_nearest(name)}")


def _number(
    name: str, given: Any, kind: type[int] | type[float], least: float | None, most: float | None
) -> int | float:
    problem = ParameterError(
        f"{name} needs {'a whole number' if kind is int else 'a number'}, not {given!r}."
    )
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise problem
    try:
        value = float(given)
        if not math.isfinite(value) or (kind is int and not value.is_integer()):
            raise problem
        if kind is int:  # not by way of the float where it can be helped: a large seed would lose digits
            value = int(value) if "." in str(given) or "e" in str(given) else int(given)
    except (ValueError, OverflowError) as error:
        raise problem from error
    if (least is not None and value < least) or (most is not None and value > most):
        limits = f"at least {least:g}" if most is None else f"between {least:g} and {most:g}"
        raise ParameterError(f"{name} must be {limits}, not {given}.")
    return value


def _engine_value(name: str, given: Any) -> Value:
    """As the engine's field has it, checked as it is there."""
    field = ENGINE.get(name, name)
    kind: Any = _KINDS[field]
    if isinstance(given, str) and bool in getattr(kind, "__args__", (kind,)):
        given = TRUTHS.get(given.lower(), given)
    if (name == "num_gpu" and str(given) == "-1") or (name == "num_thread" and str(given) == "0"):
        return int(given)  # Ollama's way to say nothing
    try:
        value = msgspec.convert(given, kind, strict=not isinstance(given, str))
        if isinstance(value, int) and not -MOST <= value <= MOST and not field.endswith("_bytes"):
            raise ParameterError(f"{name}: {value} is too large.")
        EngineSettings(**{field: value})
    except ParameterError:
        raise
    except msgspec.ValidationError as error:
        raise ParameterError(f"{name}: {str(error).lower()}.") from error
    except ValueError as error:
        raise ParameterError(f"{str(error).replace(field, name)}.") from error
    return value if isinstance(value, int | float | bool | str) else str(given)


def _engine(values: dict[str, Value]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        field = ENGINE.get(name, name)
        nothing = (name == "num_gpu" and value == -1) or (name == "num_thread" and value == 0)
        if field in EngineSettings.__struct_fields__ and not nothing:
            found[field] = msgspec.convert(value, _KINDS[field], strict=False)
    return found


def _nearest(name: str) -> str:
    known = [*SAMPLING, PREDICT, STOP, *ENGINE, *EngineSettings.__struct_fields__]
    found = process.extractOne(name, known, score_cutoff=60)
    return f" Did you mean {found[0]}?" if found else ""


_KINDS = {field.name: field.type for field in msgspec.structs.fields(EngineSettings)}
