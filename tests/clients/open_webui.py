"""Open WebUI, whole, as a server between a browser and ours: the calls its own pages make.

It takes 6 GB to install, so `make test` goes without:
`python -m tests.clients.report --open-webui PATH` runs it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from tests.clients.servers import Report, Step
from tests.server import free_port

START_S = 300  # it imports torch
MESSAGES = [{"role": "user", "content": "Parte diario de Campus Riberis."}]
GREEDY: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": 12}


def run_open_webui(command: Path, variables: dict[str, str], folder: Path) -> Report:
    """Its models, chats and embeddings, through our OpenAI routes and our Ollama routes."""
    with running(command, variables["LLAMALEON_URL"], folder) as http:
        version = http.get("/api/version").json()["version"]
        steps = (models, chat, stream, adapter, ollama, embeddings, errors)
        return Report("open-webui", version, tuple(_step(step, http) for step in steps))


@contextlib.contextmanager
def running(command: Path, server: str, folder: Path) -> Iterator[httpx.Client]:
    port = free_port()
    folder.mkdir()
    environment = {
        **os.environ,
        "DATA_DIR": str(folder),
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": "a secret of thirty-two characters",
        "OPENAI_API_BASE_URL": f"{server}/v1",
        "OPENAI_API_KEY": "unused",
        "OLLAMA_BASE_URL": server,
        "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1",
        "RAG_EMBEDDING_ENGINE": "openai",  # else it downloads a model
    }
    arguments = [str(command), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(arguments, env=environment, cwd=folder, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        try:
            _wait(http, process)
            token = http.post("/api/v1/auths/signin", json={"email": "", "password": ""}).json()["token"]
            http.headers["authorization"] = f"Bearer {token}"
            yield http
        finally:
            process.terminate()


def _wait(http: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if http.get("/health").is_success:
                return
        time.sleep(0.5)
    raise RuntimeError("Open WebUI did not start: see its log")


def _step(step: Callable[[httpx.Client], None], http: httpx.Client) -> Step:
    try:
        step(http)
    except Exception:  # whatever goes wrong is the finding
        return Step(step.__name__, "failed", traceback.format_exc())
    return Step(step.__name__, "passed", "")


def _ask(http: httpx.Client, model: str) -> str:
    answer = http.post("/api/chat/completions", json={**GREEDY, "model": model}).raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


def models(http: httpx.Client) -> None:
    names = [model["id"] for model in http.get("/api/models").raise_for_status().json()["data"]]
    assert {"nano", "nano+other", "nano:latest"} <= set(names), names  # the last one as Ollama has it


def chat(http: httpx.Client) -> None:
    assert _ask(http, "nano")


def stream(http: httpx.Client) -> None:
    body = {**GREEDY, "model": "nano", "stream": True}
    text = http.post("/api/chat/completions", json=body).raise_for_status().text
    assert text.rstrip().endswith("data: [DONE]"), text


def adapter(http: httpx.Client) -> None:
    assert _ask(http, "nano+other") != _ask(http, "nano")


def ollama(http: httpx.Client) -> None:
    body = {"model": "nano:latest", "messages": MESSAGES, "stream": False, "options": {"num_predict": 8}}
    answer = http.post("/ollama/api/chat", json=body).raise_for_status().json()
    assert answer["eval_count"] == 8


def embeddings(http: httpx.Client) -> None:
    answer = http.post("/api/embeddings", json={"model": "nano", "input": ["hola"]}).raise_for_status()
    assert answer.json()["data"][0]["embedding"]


def errors(http: httpx.Client) -> None:
    answer = http.post("/api/chat/completions", json={**GREEDY, "model": "nano", "stop": ""})
    assert answer.is_client_error
    assert "stop" in answer.text
