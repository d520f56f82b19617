"""simonw's `llm`, as a command: models of `extra-openai-models.yaml`, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from steps import (
    ADAPTER,
    ANSWER,
    BASE_URL,
    CITY,
    KEY,
    MODEL,
    PERSON,
    QUESTION,
    SCRIPTED_BASE_URL,
    SCRIPTED_MODEL,
    UNKNOWN,
    WEATHER,
    NotApplicable,
    run,
    running,
    wait_until_idle,
)

HOME = Path(tempfile.mkdtemp())
ENTRY = """\
- model_id: {id}
  model_name: {name}
  api_base: {url}
  supports_tools: true
  supports_schema: true
"""
NAMES = {MODEL: MODEL, "adapted": ADAPTER, "nobody": UNKNOWN}
(HOME / "extra-openai-models.yaml").write_text(
    "".join(ENTRY.format(id=one, name=name, url=BASE_URL) for one, name in NAMES.items())
    + ENTRY.format(id="scripted", name=SCRIPTED_MODEL, url=SCRIPTED_BASE_URL)
)
(HOME / "weather.py").write_text(
    f'def weather(city: str) -> str:\n    "The weather of a city."\n    return {WEATHER!r}\n'
)
COMMAND = [sys.executable, "-m", "llm"]
ENVIRONMENT = {**os.environ, "LLM_USER_PATH": str(HOME), "OPENAI_API_KEY": KEY}


def llm(*arguments, ok=True):
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done.stdout.strip() if ok else done.stderr


GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "12")


def chat():
    assert llm("-m", MODEL, "--no-stream", *GREEDY, QUESTION)


def stream():
    assert llm("-m", MODEL, *GREEDY, QUESTION) == llm("-m", MODEL, "--no-stream", *GREEDY, QUESTION)


def tools():
    functions = ("--functions", str(HOME / "weather.py"))
    assert llm("-m", "scripted", *functions, f"¿Qué tiempo hace en {CITY}?") == ANSWER


def structured():
    found = json.loads(llm("-m", MODEL, "--schema", json.dumps(PERSON), "-o", "max_tokens", "200", QUESTION))
    assert set(found) == {"name", "age"}


def embeddings():
    raise NotApplicable("llm takes embeddings from plugins only")


def adapter():
    assert llm("-m", MODEL, *GREEDY, QUESTION) != llm("-m", "adapted", *GREEDY, QUESTION)


def errors():
    assert "does not exist" in llm("-m", "nobody", QUESTION, ok=False)


def cancellation():
    going = subprocess.Popen(
        [*COMMAND, "-m", MODEL, "-o", "max_tokens", "900", "-o", "json_object", "true", QUESTION],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while not running() and going.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    going.send_signal(signal.SIGINT)
    going.wait(10)
    wait_until_idle()


run("llm", chat, stream, tools, structured, embeddings, adapter, errors, cancellation)
