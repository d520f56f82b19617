"""The servers that are compared, each a process on a free port with the same model and settings."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil
from tests.bench.load import Body, new_client
from tests.bench.options import THREADS
from tests.server import RunningServer, free_port

START_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Serving:
    """What every server is to serve. `context` is per request; adapters lie in one folder."""

    model: Path
    adapters: tuple[Path, ...] = ()
    context: int = 2048
    parallel: int = 8
    gpu: bool = False
    bank_ranks: int | None = None  # None: as many as the server takes by itself


class Server(ABC):
    """Started on entry, stopped on exit."""

    name: str
    client: httpx.Client

    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    @abstractmethod
    def start(self) -> str:
        """Returns: the URL, once it answers."""

    @abstractmethod
    def stop(self) -> None: ...

    @property
    @abstractmethod
    def pid(self) -> int: ...

    @property
    @abstractmethod
    def flags(self) -> str:
        """For the report: without paths."""

    def __enter__(self) -> Self:
        try:
            self.client = new_client(self.start())
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.stop()

    def body(self, prompt: str, tokens: int, adapter: Path | None = None, *, cache: bool = False) -> Body:
        """A greedy streamed completion of exactly `tokens` tokens."""
        return {
            "model": self.serving.model.stem,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "repeat_penalty": 1.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_prompt": cache,
        }

    def cpu_s(self) -> float:
        """Seconds of CPU that it and its children have used."""
        process = psutil.Process(self.pid)
        times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
        return float(sum(one.user + one.system for one in times))


class Ours(Server):
    name = "llamaleon"

    def __init__(self, serving: Serving, home: Path) -> None:
        super().__init__(serving)
        self._flags = [
            *("--threads", str(THREADS), "--context", str(serving.context)),
            *("--parallel", str(serving.parallel), "--idle-unload", "0", "--log-level", "warning"),
            "--no-speculation",
            *(("--bank-ranks", str(serving.bank_ranks)) if serving.bank_ranks else ()),
        ]
        watched = {path.parent for path in serving.adapters}
        folders = [part for folder in watched for part in ("--watch", str(folder))]
        self._server = RunningServer(home, ["--model", str(serving.model), *folders, *self._flags])

    def start(self) -> str:
        self._server.start()
        wanted = {self._model(path) for path in self.serving.adapters}
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            listed = httpx.get(f"{self._server.url}/v1/models", timeout=60).json()["data"]
            if wanted <= {entry["id"] for entry in listed}:
                return self._server.url
            if time.monotonic() > deadline:
                raise TimeoutError(f"adapters not served: {wanted - {entry['id'] for entry in listed}}")
            time.sleep(0.2)

    def stop(self) -> None:
        self._server.stop()

    @property
    def pid(self) -> int:
        assert self._server.process is not None
        return self._server.process.pid

    @property
    def flags(self) -> str:
        return " ".join(self._flags)

    def counter(self, name: str) -> float:
        """One of its Prometheus metrics, of its only base."""
        lines = self.client.get("/metrics").raise_for_status().text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))

    def _model(self, adapter: Path | None) -> str:
        return self.serving.model.stem + (f"+{adapter.stem}" if adapter else "")

    def body(self, prompt: str, tokens: int, adapter: Path | None = None, *, cache: bool = False) -> Body:
        return {**super().body(prompt, tokens, cache=cache), "model": self._model(adapter)}


class Peer(Server):
    """Another program: a command that answers HTTP."""

    health: str
    log: Path

    @abstractmethod
    def command(self, port: int) -> list[str]: ...

    def start(self) -> str:
        url = f"http://127.0.0.1:{(port := free_port())}"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(port), stdout=log, stderr=log, env={**os.environ, **self.environment()}
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} exited:\n{self.log.read_text(errors='replace')[-2000:]}")
            try:
                if httpx.get(url + self.health, timeout=5.0).status_code == httpx.codes.OK:
                    return url
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.2)
        raise TimeoutError(f"{self.name} does not answer")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def environment(self) -> dict[str, str]:
        return {}

    @property
    def pid(self) -> int:
        return self._process.pid


class LlamaServer(Peer):
    """llama-server with every adapter given at start; a request names the one that it wants."""

    name = "llama-server"
    health = "/health"

    def __init__(self, serving: Serving, binary: Path, adapters: Sequence[Path], log: Path) -> None:
        super().__init__(serving)
        self._binary, self._adapters, self.log = binary, list(adapters), log
        self._flags = [
            *("--threads", str(THREADS), "--threads-batch", str(THREADS)),
            *("--ctx-size", str(serving.context * serving.parallel), "--parallel", str(serving.parallel)),
            *("--cache-ram", "0", "--no-webui", "--offline", "-lv", "1"),
            *(("--gpu-layers", "all") if serving.gpu else ()),
        ]

    def command(self, port: int) -> list[str]:
        loras = ",".join(map(str, self._adapters))
        extra = ["--lora", loras, "--lora-init-without-apply"] if loras else []
        model = ["--model", str(self.serving.model), "--port", str(port)]
        return [str(self._binary), *model, *self._flags, *extra]

    @property
    def flags(self) -> str:
        loras = " --lora A,B,... --lora-init-without-apply" if self._adapters else ""
        return " ".join(self._flags) + loras

    def body(self, prompt: str, tokens: int, adapter: Path | None = None, *, cache: bool = False) -> Body:
        # What is not named has scale 0; an empty list would mean every adapter at scale 1.
        number, scale = (self._adapters.index(adapter), 1.0) if adapter else (0, 0.0)
        chosen = [{"id": number, "scale": scale}] if self._adapters else []
        return {**super().body(prompt, tokens, cache=cache), "lora": chosen}


class PythonServer(Peer):
    """`python -m llama_cpp.server`: one request at a time, at most one adapter, for all requests."""

    name = "llama_cpp.server"
    health = "/v1/models"

    def __init__(self, serving: Serving, log: Path, adapter: Path | None = None) -> None:
        super().__init__(serving)
        self._adapter, self.log = adapter, log
        self._flags = [
            *("--n_threads", str(THREADS), "--n_threads_batch", str(THREADS)),
            *("--n_ctx", str(serving.context), "--flash_attn", "true"),
            *("--interrupt_requests", "false", "--verbose", "false"),
            *(("--n_gpu_layers", "-1") if serving.gpu else ()),
        ]

    def command(self, port: int) -> list[str]:
        model = ["--model", str(self.serving.model), "--port", str(port), "--host", "127.0.0.1"]
        lora = ["--lora_path", str(self._adapter)] if self._adapter else []
        return [sys.executable, "-W", "ignore", "-m", "llama_cpp.server", *model, *self._flags, *lora]

    @property
    def flags(self) -> str:
        return " ".join(self._flags) + (" --lora_path A" if self._adapter else "")


def python_server_problem() -> str | None:
    """Why llama_cpp.server cannot be started, or None."""
    needed = ("fastapi", "pydantic_settings", "starlette_context", "sse_starlette", "uvicorn")
    missing = [name for name in needed if find_spec(name) is None]
    return f"needs the extra `bench` (not installed: {', '.join(missing)})" if missing else None


def versions(binary: Path | None) -> dict[str, str]:
    """Of the peers that there are."""
    found = {
        "llamaleon": version("llamaleon"),
        "llama_cpp.server": f"llama-cpp-python {version('llama_cpp_python')}",
    }
    if binary is not None:
        said = subprocess.run([str(binary), "--version"], check=True, capture_output=True, text=True)
        lines = (said.stdout + said.stderr).strip().splitlines()
        found["llama-server"] = next(line for line in lines if line.startswith("version"))
    return found
