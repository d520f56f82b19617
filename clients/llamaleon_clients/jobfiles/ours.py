"""Our own job file: what a job has, and every hyperparameter by the API's name.

base: nano
data: reports.jsonl          # beside this file; or hf:OWNER/NAME
name: informes
n_epochs: 3
learning_rate: 2e-4
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from llamaleon_clients.jobfiles.loading import Document
from llamaleon_clients.jobfiles.names import HYPERPARAMETERS, OF_THE_JOB
from llamaleon_clients.jobfiles.paths import located
from llamaleon_clients.words import say

METHODS = ("supervised", "dpo")
NESTED = "hyperparameters"  # they may also stand under this key, as in the API


def settings_of(document: Document) -> dict[str, Any]:
    """
    Raises:
        BadInput: an unknown key or a value of the wrong kind, with its line.
    """
    settings: dict[str, Any] = {}
    for key, value in document.values.items():
        if key == NESTED:
            _nested(document, value, settings)
        elif key in OF_THE_JOB:
            if value is not None:
                _check(document, key, value)
                settings[key] = value
        elif key in HYPERPARAMETERS:
            _add(document, settings, key, key, value)
        else:
            raise document.mistake(str(key), unknown(str(key), (*OF_THE_JOB, *HYPERPARAMETERS)))
    for key in ("data", "valid"):
        if key in settings:
            settings[key] = located(settings[key], document.path.parent)
    return settings


def unknown(key: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """What to say of a name: the nearest of `known`, else of `others`, may have been meant."""
    nearest = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(key, others, n=1)
    if nearest:
        return say("unknown; did you mean `{nearest}`?", nearest=nearest[0])
    return say("unknown.")


def _nested(document: Document, value: Any, settings: dict[str, Any]) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise document.mistake(NESTED, say("a list of `key: value` lines is needed."))
    for key, given in value.items():
        where = f"{NESTED}.{key}"
        if key not in HYPERPARAMETERS:
            raise document.mistake(where, unknown(str(key), HYPERPARAMETERS))
        _add(document, settings, key, where, given)


def _add(document: Document, settings: dict[str, Any], key: str, where: str, value: Any) -> None:
    if key in settings:
        raise document.mistake(where, say("it is given twice."))
    if value is not None:
        settings[key] = value


def _check(document: Document, key: str, value: Any) -> None:
    kind, accepts = _kinds()[key]
    if not accepts(value):
        raise document.mistake(key, say("{kind} is needed, not {value}.", kind=kind, value=repr(value)))


def _kinds() -> dict[str, tuple[str, Callable[[Any], bool]]]:
    text = (say("a text"), lambda value: isinstance(value, str) and bool(value))
    flag = (say("true or false"), lambda value: isinstance(value, bool))
    table = (say("a list of `key: value` lines"), lambda value: isinstance(value, dict))
    return {
        **dict.fromkeys(("base", "data", "name", "valid", "text_template"), text),
        **dict.fromkeys(("deploy", "tensorboard"), flag),
        "metadata": table,
        "method": (" / ".join(METHODS), lambda value: value in METHODS),
        "seed": (say("a whole number"), lambda value: isinstance(value, int) and not isinstance(value, bool)),
        "wandb": (say("a project's name, or its settings"), lambda value: isinstance(value, str | dict)),
    }
