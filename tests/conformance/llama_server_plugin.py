"""A pytest plugin under which llama-server's own tests start this server instead of theirs.

What a request of llama-server need not say is said for it: the name of the model. What cannot apply is
skipped with the reason. Nothing else of the tests is changed.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import pytest
from tests.server import free_port

MODEL = "LLAMALEON_SUITE_MODEL"  # a GGUF file of the 260 k parameter story model
RESULTS = "LLAMALEON_SUITE_RESULTS"  # a JSON-lines file
_MODEL = re.compile(r"""model"?\s*[=:]\s*"([\w.-]+)\"""")  # as requests write it: llama-server takes any
STORIES = "ggml-org/test-model-stories260K"
# What llama-server uses for a model without a template of its own.
CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
# Attribute of their `ServerProcess` -> what it asks for.
ABSENT = {
    "enable_ctx_shift": "context shift: a full context ends the answer here",
    "slot_save_path": "slots saved to files: prefixes are kept by themselves here",
    "sleep_idle_seconds": "their idle sleep: idle models are unloaded here",
    "gcp_compat": "Google Cloud's prediction protocol",
    "server_tools": "tools that the server itself runs",
    "mcp_servers_config": "MCP servers run by the server",
    "mcp_servers_json": "MCP servers run by the server",
    "ui_mcp_proxy": "a proxy for their web page",
    "lora_files": "a model and an adapter that are not here (download)",
    "spec_type": "a draft model, or their names for guessing ahead",
    "model_draft": "a draft model that is not here (download)",
    "backend_sampling": "sampling inside the graph",
    "media_path": "images from files of the server",
    "models_dir": "their router of several processes",
    "models_preset": "their router of several processes",
    "model_tags": "tags of models",
    "no_ui": "their web page",
}

# Whole files that are about parts of llama-server which are no part of this one.
NOT_OURS = {
    "test_router.py": "their router of several processes",
    "test_mcp_servers.py": "MCP servers run by the server",
    "test_tools_builtin.py": "tools that the server itself runs",
    "test_proxy.py": "their way to trust a proxy's headers",
    "test_slot_save.py": "slots saved to files: prefixes are kept by themselves here",
    "test_sleep.py": "their idle sleep: idle models are unloaded here",
    "test_stream.py": "their streams that outlive a connection",
    "test_kv_keep_only_active.py": "an option of their slots",
    "test_compat_gcp.py": "Google Cloud's prediction protocol",
}
_names: list[str] = []  # that the test which runs now writes, and that llama-server takes for its only model
# Their helper downloads with it; nothing is downloaded here. Before their conftest is read.
sys.modules.setdefault("wget", types.ModuleType("wget"))


class Results:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        reason = ""
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
        elif report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = (crash.message if crash else str(report.longrepr)).split("\n")[0]
        line = {"test": report.nodeid, "outcome": report.outcome, "reason": reason}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    import utils  # type: ignore[import-not-found]  # of the folder whose tests run

    config.pluginmanager.register(Results(Path(os.environ[RESULTS])))
    utils.ServerPreset.load_all = staticmethod(lambda: None)
    utils.download_file = lambda *_: pytest.skip("a file that is not here (download)")
    utils.ServerProcess.start = start
    plain, streamed = utils.ServerProcess.make_request, utils.ServerProcess.make_stream_request

    def make_request(self: Any, method: str, path: str, data: Any = None, *more: Any, **options: Any) -> Any:
        return plain(self, method, path, _said(self, data), *more, **options)

    def make_stream_request(
        self: Any, method: str, path: str, data: Any = None, *more: Any, **options: Any
    ) -> Any:
        return streamed(self, method, path, _said(self, data), *more, **options)

    utils.ServerProcess.make_request = make_request
    utils.ServerProcess.make_stream_request = make_stream_request


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.path.name in NOT_OURS:
        pytest.skip(NOT_OURS[item.path.name])
    if item.get_closest_marker("slow") is not None:
        pytest.skip("slow, by their own mark: large models that are not here (download)")
    assert isinstance(item, pytest.Function)
    _names[:] = _MODEL.findall(inspect.getsource(item.function))


def _said(server: Any, data: Any) -> Any:
    """With the model that their server has, and what an option of it says of thinking."""
    if not isinstance(data, dict):
        return data
    said = dict(data)
    if said.get("model") not in _names:
        said["model"] = server.name
    if server.reasoning is not None:
        said["chat_template_kwargs"] = {"enable_thinking": server.reasoning != "off"}
    return said


def start(server: Any, timeout_seconds: int = 60) -> None:
    why = _not_applicable(server)
    if why is not None:
        pytest.skip(why)
    home = Path(tempfile.mkdtemp(prefix="llamaleon-suite-"))
    server.name = server.model_alias or "stories"
    _presets(server, home)
    server.server_port = free_port()  # theirs may still be held by the server of the test before
    command = [sys.executable, "-m", "llamaleon_server", *_arguments(server, home)]
    log = (home / "log").open("wb")
    server.process = subprocess.Popen(command, stdout=log, stderr=log)
    server.process.terminate = server.process.kill
    import utils

    utils.server_instances.add(server)
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError((home / "log").read_text())
        try:
            import requests

            requests.get(f"http://127.0.0.1:{server.server_port}/health", timeout=1)
            return
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout):
            time.sleep(0.05)
    raise TimeoutError((home / "log").read_text())


def _not_applicable(server: Any) -> str | None:
    for attribute, what in ABSENT.items():
        if getattr(server, attribute, None):
            return what
    if "," in server.server_host:
        return "several addresses for one server"
    if "," in (server.model_alias or ""):
        return "several names by one option: `llamaleon cp` makes them here"
    if re.fullmatch(r"[\w-]+", server.chat_template or "") and server.chat_template != "chatml":
        return "a template that llama-server has built in, by name"
    if server.model_hf_repo != STORIES:
        return f"a model that is not here (download): {server.model_hf_repo or 'none: their router'}"
    return None


def _presets(server: Any, home: Path) -> None:
    """Their options for all requests are, here, those of the model."""
    template = CHATML
    if server.chat_template_file:
        template = Path(server.chat_template_file).read_text(encoding="utf-8")
    elif server.chat_template and server.chat_template != "chatml":
        template = server.chat_template
    said = {"temperature": server.temperature, "seed": server.seed, "template": template}
    if server.n_predict:
        said["num_predict"] = server.n_predict
    (home / "models.yaml").write_text(json.dumps({"*": said}), encoding="utf-8")  # JSON is YAML


def _arguments(server: Any, home: Path) -> list[str]:
    slots = server.n_slots or 1
    context = (server.n_ctx or 4096) // (1 if server.kv_unified else slots)
    arguments = ["--home", str(home), "--port", str(server.server_port)]
    arguments += ["--context", str(context), "--kv-tokens", str(max(server.n_ctx or 4096, context))]
    arguments += ["--parallel", str(slots), "--gpu-layers", "0"]
    if server.n_batch:
        arguments += ["--batch-tokens", str(server.n_batch)]
    if server.api_key:
        arguments += ["--api-key", server.api_key]
    if server.cors_origins:
        arguments += ["--cors-origin", server.cors_origins]
    for name in dict.fromkeys((server.name, *_names)):
        link = home / f"{name}.gguf"
        link.symlink_to(os.environ[MODEL])
        arguments += ["--model", str(link)]
    return arguments
