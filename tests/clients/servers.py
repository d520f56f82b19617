"""The two servers that third-party clients talk to, and how their steps are run and read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.data import REPOSITORY
from tests.lora import random_lora
from tests.server import RunningServer, free_port

import llamaleon_server

NANO = Path(llamaleon_server.__file__).parent / "models" / "nano.gguf"
HERE = Path(__file__).parent
ENVIRONMENT = REPOSITORY / ".venv" / "clients"  # made by `make setup` from requirements.txt
NODE = REPOSITORY / ".venv" / "node"  # and this from node/package-lock.json, where there is npm

CITY, WEATHER = "Madrid", "18 grados y lluvia"  # as scenarios/steps.py has them
ANSWER = f"En {CITY}: {WEATHER}"

# Name -> the script that drives it.
CLIENTS = {
    "openai (Node.js)": "node/openai_client.js",
    "litellm": "scenarios/litellm_client.py",
    "langchain-openai": "scenarios/langchain_client.py",
    "llama-index": "scenarios/llama_index_client.py",
    "instructor": "scenarios/instructor_client.py",
    "pydantic-ai": "scenarios/pydantic_ai_client.py",
    "llm": "scenarios/llm_client.py",
    "llm, our plugin": "scenarios/llm_plugin_client.py",
    "lm-eval": "scenarios/lm_eval_client.py",
}
TIMEOUT_S = 240  # of one client; importing some of them takes ten seconds on a busy machine
IDLE_S = 60.0


@dataclass(frozen=True)
class Step:
    name: str
    result: str  # passed, failed, not applicable
    detail: str


@dataclass(frozen=True)
class Report:
    client: str
    version: str
    steps: tuple[Step, ...]


class NotInstalled(Exception):
    """The client is not there, and why."""


@contextlib.contextmanager
def both_servers(folder: Path) -> Iterator[dict[str, str]]:
    """Environment variables that say where they are."""
    adapter = random_lora(NANO, folder / "other.gguf", seed=5, strength=2.0)
    with RunningServer(folder / "home", ["--kv-type", "f32", "--no-flash-attention"]) as real:
        body = {"lora_name": "other", "lora_path": str(adapter), "base_model_name": "nano"}
        httpx.post(f"{real.url}/v1/load_lora_adapter", json=body).raise_for_status()
        with scripted_server(folder / "scripted") as scripted:
            yield {"LLAMALEON_URL": real.url, "LLAMALEON_SCRIPTED_URL": scripted}


@contextlib.contextmanager
def scripted_server(home: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tests.clients.scripted", str(port), str(home)]
    with subprocess.Popen(command, cwd=REPOSITORY) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/health")
            yield url
        finally:
            process.terminate()


def wait_for(url: str, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            httpx.get(url, timeout=1.0).raise_for_status()
            return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def left_early(server: str, asked: int) -> Iterator[None]:
    """In the block a client leaves a request of `asked` tokens: work on it must end before it is done."""
    before = generated(server)
    yield
    deadline = time.monotonic() + IDLE_S
    while any(model["running"] for model in _residents(server)):
        assert time.monotonic() < deadline, "the server still generates for a client that has gone"
        time.sleep(0.01)
    assert generated(server) - before < asked, "all of it was generated, for nobody"


def generated(server: str) -> int:
    """Tokens so far, by all models in memory."""
    deadline = time.monotonic() + IDLE_S
    while True:
        steps = [model["step"] for model in _residents(server)]
        if None not in steps:
            return sum(step["tokens_out"] for step in steps)
        assert time.monotonic() < deadline, "an engine does not say what it does"
        time.sleep(0.05)


def _residents(server: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{server}/llamaleon/ps", timeout=IDLE_S).json()["data"]
    return found


def run_client(name: str, variables: dict[str, str]) -> Report:
    """Raises: NotInstalled; AssertionError if the script itself breaks, with what it said."""
    script = HERE / CLIENTS[name]
    done = subprocess.run(
        [*_interpreter(script)],
        env={**os.environ, **variables, "LITELLM_LOCAL_MODEL_COST_MAP": "true"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines and "package" in lines[0], f"{script} did not begin:\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, done.stderr
    steps = tuple(Step(line["step"], line["result"], line["detail"]) for line in lines[1:])
    return Report(name, lines[0]["version"], steps)


def _interpreter(script: Path) -> list[str]:
    if script.suffix == ".js":
        node = shutil.which("node")
        if node is None or not (NODE / "node_modules").is_dir():
            raise NotInstalled("there is no node, or no npm that could install the package")
        copy = shutil.copy(script, NODE)  # packages are looked for beside the script
        return [node, str(copy)]
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        raise NotInstalled("run `make setup`")
    return [str(python), str(script)]
