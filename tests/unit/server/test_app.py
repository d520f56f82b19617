"""The application as a whole: mounted elsewhere, started lazily, as a process, and what it never imports."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.api import CHATML, events
from tests.server import RunningServer, free_port
from tests.unit.server.registry.small import write_base

from llamaleon_server.__main__ import parser, settings_of, url_of
from llamaleon_server.app import create_app
from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.errors import BadRequest, NotFound
from llamaleon_server.settings import ENGINE_LIMITS, EngineSettings, Settings, bytes_of, is_loopback
from llamaleon_server.testing import FakeEngines


async def test_it_works_mounted_under_a_path_of_an_app_that_runs_no_lifespan(tmp_path: Path) -> None:
    base = write_base(tmp_path / "tiny.gguf", template=CHATML)
    engines = FakeEngines()
    inner = create_app(Settings(home=tmp_path / "home", models=(str(base),)), open_channel=engines.open)
    host = Starlette(routes=[Mount("/llm/local", app=inner)])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(host), base_url="http://localhost/llm/local"
    ) as http:
        assert (await http.get("/health")).json()["status"] == "ok"
        assert (await http.get("/v1/models/tiny")).json()["id"] == "tiny"
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
        assert (await http.post("/v1/chat/completions", json=body)).json()["model"] == "tiny"
        assert events(await http.post("/v1/chat/completions", json={**body, "stream": True}))[-1] == "[DONE]"
        assert (await http.get("/v1/nothing")).json()["error"]["code"] == "unknown_url"
        assert (await http.get("/v1/fine_tuning/jobs")).json()["data"] == []
    await inner.state.lifecycle.close()
    assert engines.last.closed
    await inner.state.lifecycle.close()  # again is no mistake


async def test_its_own_lifespan_starts_and_stops_everything(tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path / "home"), open_channel=FakeEngines().open)
    async with app.router.lifespan_context(app):
        pass


def test_a_model_that_is_no_model_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="neither a GGUF file nor a registered model"):
        create_app(Settings(home=tmp_path / "home", models=("quen",)))
    (tmp_path / "broken.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadRequest, match=r"broken\.gguf"):
        create_app(Settings(home=tmp_path / "home", models=(str(tmp_path / "broken.gguf"),)))


def test_options_become_settings() -> None:
    options = (
        "--port 0 --model a.gguf --model b --watch x --gpu-layers 3 --context 512 --parallel 2 --threads 1"
    )
    more = "--batch-tokens 64 --no-flash-attention --kv-type q8_0 --queue-limit 9 --idle-unload 0 --home /h"
    mixed = (
        "--kv-tokens 9000 --step-target 0.1 --no-speculation --no-mixing --bank-ranks 64 "
        "--adapter-ram 2GiB --prefix-ram 0"
    )
    settings = settings_of(parser().parse_args(f"{options} {more} {mixed}".split()))
    assert settings == Settings(
        home=Path("/h"),
        port=0,
        models=("a.gguf", "b"),
        discover=True,
        watch=(Path("x"),),
        idle_unload_s=None,
        engine=EngineSettings(
            gpu_layers=3,
            context_tokens=512,
            parallel_sequences=2,
            batch_tokens=64,
            kv_tokens=9000,
            step_target_s=0.1,
            speculation=False,
            mixing=False,
            bank_ranks=64,
            adapter_ram_bytes=2 << 30,
            prefix_ram_bytes=0,
            threads=1,
            flash_attention=False,
            kv_type="q8_0",
            queue_limit=9,
        ),
    )
    assert settings_of(parser().parse_args(["--home", "/h", "--no-discover"])) == Settings(home=Path("/h"))


def test_options_of_training_and_webhooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    text = (
        f"--training-gpu yield --webhook-url http://a/x --webhook-url https://b --webhook-secret-file {file}"
    )
    settings = settings_of(parser().parse_args(text.split()))
    assert (settings.training_gpu, settings.webhook_secret) == ("yield", "s3cret")
    assert settings.webhook_urls == ("http://a/x", "https://b")
    monkeypatch.setenv("LLAMALEON_WEBHOOK_SECRET", "of the environment")
    assert settings_of(parser().parse_args([])).webhook_secret == "of the environment"
    file.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        settings_of(parser().parse_args(text.split()))
    with pytest.raises(ValueError, match="cannot be read"):
        settings_of(parser().parse_args(["--webhook-secret-file", str(tmp_path / "none")]))


def test_options_of_memory_rope_and_gpus() -> None:
    text = (
        "--home /h --memory-budget 8GiB --max-models 2 --kv-type-k q8_0 --kv-type-v f16 --no-mmap "
        "--rope-scaling yarn --rope-freq-base 1e6 --rope-freq-scale 0.25 --yarn-ext-factor 0.5 "
        "--yarn-attn-factor 1.1 --yarn-beta-fast 16 --yarn-beta-slow 2 --yarn-orig-ctx 4096 "
        "--split-mode row --tensor-split 3,1 --main-gpu 1 --no-discover"
    )
    assert settings_of(parser().parse_args(text.split())) == Settings(
        home=Path("/h"),
        memory_budget=8 << 30,
        max_models=2,
        engine=EngineSettings(
            kv_type_k="q8_0",
            kv_type_v="f16",
            use_mmap=False,
            rope_scaling="yarn",
            rope_freq_base=1e6,
            rope_freq_scale=0.25,
            yarn_ext_factor=0.5,
            yarn_attn_factor=1.1,
            yarn_beta_fast=16.0,
            yarn_beta_slow=2.0,
            yarn_orig_ctx=4096,
            split_mode="row",
            tensor_split=(3.0, 1.0),
            main_gpu=1,
        ),
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kv_type_v", "q9"),
        ("rope_scaling", "wide"),
        ("split_mode", "x"),
        ("tensor_split", (0.0, 0.0)),
        ("tensor_split", (-1.0, 2.0)),
        ("yarn_ext_factor", 1.5),
        ("rope_freq_scale", 0.0),
        ("rope_freq_base", math.inf),
    ],
)
def test_engine_options_that_cannot_be_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be "):
        EngineSettings(**{field: value})


@pytest.mark.parametrize("field", ["memory_budget", "max_models"])
def test_limits_of_memory_are_at_least_one(field: str) -> None:
    given: dict[str, Any] = {field: 0}
    with pytest.raises(ValueError, match=f"^{field} must be at least 1"):
        Settings(**given)


def test_a_mistake_in_the_presets_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("nano:\n  threads: many\n")
    with pytest.raises(BadRequest, match=r"models\.yaml, line 2: `threads`"):
        create_app(Settings(home=tmp_path))


def test_engine_settings_are_what_the_engine_takes() -> None:
    options, settings = EngineOptions(model_path="/x.gguf"), EngineSettings()
    assert set(EngineOptions.__struct_fields__) == {
        "model_path",
        "projector_path",
        *EngineSettings.__struct_fields__,
    }
    for field in EngineSettings.__struct_fields__:
        assert getattr(settings, field) == getattr(options, field), field


@pytest.mark.parametrize("field", [*ENGINE_LIMITS, "step_target_s"])
def test_a_setting_that_cannot_be_is_named(field: str) -> None:
    least: Any = ENGINE_LIMITS.get(field, (0.001, None))[0]
    given: dict[str, Any] = {field: least}
    EngineSettings(**given)
    given[field] -= 1
    with pytest.raises(ValueError, match=f"^{field} must be "):
        EngineSettings(**given)


def test_limits_above_are_named_too() -> None:
    with pytest.raises(ValueError, match="parallel_sequences must be between 1 and 128, not 129"):
        EngineSettings(parallel_sequences=129)
    for endless in (math.inf, math.nan):
        with pytest.raises(ValueError, match="step_target_s must be more than 0"):
            EngineSettings(step_target_s=endless)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("4GiB", 4 << 30),
        ("4g", 4 * 10**9),
        ("1.5 MB", 1_500_000),
        ("2KiB", 2048),
        ("9B", 9),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "-1", "GiB", "4q", "4iB", "1e9", "four"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        bytes_of(text)


@pytest.mark.parametrize(
    ("host", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:1"),
        ("localhost", True, "http://localhost:1"),
        ("::1", True, "http://[::1]:1"),
        ("0.0.0.0", False, "http://127.0.0.1:1"),
        ("192.168.1.5", False, "http://192.168.1.5:1"),
        ("example.org", False, "http://example.org:1"),
    ],
)
def test_who_can_reach_a_host(host: str, loopback: bool, url: str) -> None:
    assert is_loopback(host) is loopback
    assert url_of(host, 1) == url


def test_the_process_is_light_and_leaves_its_address(tmp_path: Path) -> None:
    base = write_base(tmp_path / "tiny.gguf")
    with RunningServer(tmp_path / "home", ["--model", str(base)]) as server:
        assert server.process is not None
        record = json.loads((server.home / "server.json").read_text())
        assert record == {"pid": server.process.pid, "url": server.url}
        process = psutil.Process(server.process.pid)
        assert process.memory_info().rss < 120 * 2**20
        mapped = {Path(region.path).name for region in process.memory_maps()}
        assert not [name for name in mapped if "libllama" in name or "libggml" in name or "torch" in name]
        httpx.get(f"{server.url}/v1/models").raise_for_status()
    assert server.process.returncode == 0
    assert not (server.home / "server.json").exists()


def test_ctrl_c_ends_it_without_a_trace(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "home") as server:
        assert server.process is not None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
    log = server.log.read_text()
    assert f"ready at {server.url}" in log
    assert "Traceback" not in log


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamaleon_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_mistakes_at_the_start_are_one_line(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "home") as server:
        taken = run("--home", str(tmp_path / "other"), "--port", str(server.port))
        assert taken.returncode == 1
        assert f"cannot listen on 127.0.0.1 port {server.port}" in taken.stderr
        locked = run("--home", str(server.home), "--port", str(free_port()))
        assert locked.returncode == 1
        assert "Another llamaleon server" in locked.stderr
        assert (server.home / "server.json").exists()  # still the first one's
    wrong = run("--home", str(tmp_path / "home"), "--step-target", "0")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "llamaleon: step_target_s must be more than 0 seconds, not 0\n",
    )
    unknown = run("--home", str(tmp_path / "home"), "--port", "0", "--model", "quen")
    assert unknown.returncode == 1
    assert "neither a GGUF file nor a registered model" in unknown.stderr
    for failed in (taken, locked, unknown):
        assert "Traceback" not in failed.stderr


def test_listening_to_the_network_wants_a_key_or_a_loud_choice(tmp_path: Path) -> None:
    refused = run("--home", str(tmp_path / "home"), "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 1
    assert "llamaleon keys create" in refused.stderr
    assert "--insecure" in refused.stderr
    with RunningServer(tmp_path / "home", ["--host", "0.0.0.0", "--insecure"]) as server:
        log = server.log.read_text()
        assert "WARNING: listening on 0.0.0.0" in log
        assert "Whoever reaches this machine" in log
    with RunningServer(tmp_path / "keyed", ["--host", "0.0.0.0", "--api-key", "k"]) as server:
        log = server.log.read_text()
        assert "Nothing is encrypted" in log
        assert "Whoever reaches this machine" not in log


def test_importing_the_server_imports_neither_llama_cpp_nor_torch() -> None:
    code = "import sys, llamaleon_server.__main__; print({'llama_cpp', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
