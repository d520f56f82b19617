"""Runs one client's steps and reports each as a line of JSON. Imported by the scripts beside it.

The scripts run in an environment of their own, with the packages of requirements.txt and none of ours.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import sys
import time
import traceback
import urllib.request
import warnings
from collections.abc import Callable

URL = os.environ["LLAMALEON_URL"]  # a real engine with the small model that ships
SCRIPTED = os.environ["LLAMALEON_SCRIPTED_URL"]  # an engine that calls a tool when it sees one, then answers
BASE_URL, SCRIPTED_BASE_URL = f"{URL}/v1", f"{SCRIPTED}/v1"
MODEL, ADAPTER, SCRIPTED_MODEL = "nano", "nano+other", "scripted"
UNKNOWN = "nano+nobody"
KEY = "unused"
QUESTION = "Parte diario de Campus Riberis."
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
# What the scripted engine knows.
CITY, WEATHER = "Madrid", "18 grados y lluvia"
ANSWER = f"En {CITY}: {WEATHER}"

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class NotApplicable(Exception):
    """The client has no such thing; says what."""


def run(package: str, *steps: Callable[[], None]) -> None:
    """Every step, whatever became of the ones before it. A step's name is its function's."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    report = {"package": package, "version": importlib.metadata.version(package)}
    print(json.dumps(report), flush=True)
    for step in steps:
        result, detail = "passed", ""
        try:
            step()
        except NotApplicable as reason:
            result, detail = "not applicable", str(reason)
        except Exception:  # whatever the client raises is the finding
            result, detail = "failed", traceback.format_exc()
        print(json.dumps({"step": step.__name__, "result": result, "detail": detail}), flush=True)
    sys.stdout.flush()
    os._exit(0)  # some clients leave threads behind that never end


def wait_until_idle(within_s: float = 5.0) -> None:
    """Raises: TimeoutError if the server still generates then: a closed stream was not noticed."""
    deadline = time.monotonic() + within_s
    while running():
        if time.monotonic() > deadline:
            raise TimeoutError("the server still generates for a client that has gone")
        time.sleep(0.02)


def running() -> int:
    with urllib.request.urlopen(f"{URL}/llamaleon/ps") as answer:
        return sum(model["running"] for model in json.load(answer)["data"])
