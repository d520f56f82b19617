"""simonw's `llm` with our plugin: models and adapters are there without being written down anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from steps import ADAPTER, KEY, MODEL, PERSON, QUESTION, UNKNOWN, URL, NotApplicable, run

HOME = Path(tempfile.mkdtemp())
SOURCE = Path(__file__).parents[3] / "clients"
# As an installed package would say it: llm finds plugins by this.
FACTS = HOME / "site" / "llamaleon-0.dist-info"
FACTS.mkdir(parents=True)
(FACTS / "METADATA").write_text("Metadata-Version: 2.1\nName: llamaleon\nVersion: 0\n")
(FACTS / "entry_points.txt").write_text("[llm]\nllamaleon = llamaleon_clients.llm_plugin\n")
ENVIRONMENT = {
    **os.environ,
    "LLM_USER_PATH": str(HOME),
    "LLAMALEON_URL": URL,
    "LLAMALEON_API_KEY": KEY,
    "PYTHONPATH": os.pathsep.join([str(SOURCE), str(HOME / "site")]),
}
GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "12")


def llm(*arguments, ok=True):
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done.stdout.strip() if ok else done.stderr


def chat():
    listed = llm("models")
    assert f"llamaleon/{MODEL}" in listed
    assert f"llamaleon/{ADAPTER}" in listed
    assert llm("-m", MODEL, "--no-stream", *GREEDY, QUESTION)


def stream():
    whole = llm("-m", f"llamaleon/{MODEL}", "--no-stream", *GREEDY, QUESTION)
    assert llm("-m", MODEL, *GREEDY, QUESTION) == whole


def tools():
    raise NotApplicable("as llm's own row")


def structured():
    found = json.loads(llm("-m", MODEL, "--schema", json.dumps(PERSON), "-o", "max_tokens", "200", QUESTION))
    assert set(found) == {"name", "age"}


def embeddings():
    first = json.loads(llm("embed", "-m", MODEL, "-c", "hola"))
    second = json.loads(llm("embed", "-m", MODEL, "-c", "adiós"))
    assert len(first) == len(second) > 0
    assert first != second


def adapter():
    assert llm("-m", MODEL, *GREEDY, QUESTION) != llm("-m", ADAPTER, *GREEDY, QUESTION)


def errors():
    assert "Unknown model" in llm("-m", UNKNOWN, QUESTION, ok=False)
    ENVIRONMENT["LLAMALEON_URL"] = "http://127.0.0.1:9"  # nobody there: llm goes on without our models
    assert "llamaleon" not in llm("models")


run("llm", chat, stream, tools, structured, embeddings, adapter, errors)
