"""`POST /llamaleon/pull`, `GET /llamaleon/search` and the commands, against a real server process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from tests.api import Api, error_of, events, running_api
from tests.hub.models import small_model
from tests.hub.serving import Elsewhere, Fault
from tests.server import RunningServer

REPO = "somebody/Tiny-GGUF"


@pytest.fixture(autouse=True)
def repo(elsewhere: Elsewhere, tmp_path: Path) -> None:
    elsewhere.put(
        REPO,
        {
            "tiny-Q4_K_M.gguf": small_model(tmp_path / "a"),
            "tiny-Q8_0.gguf": small_model(tmp_path / "b", width=64),
        },
    )
    elsewhere.put("somebody/Other-GGUF", {"other.gguf": small_model(tmp_path / "c")})


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path / "home") as made:
        yield made


async def test_progress_as_events(api: Api) -> None:
    *steps, success, done = events(await api.post("/llamaleon/pull", model=REPO))
    assert steps[0]["status"] == "pulling manifest"
    assert any(step.get("completed") == step["total"] for step in steps if "total" in step)
    assert success == {"status": "success", "model": f"{REPO}:Q4_K_M"}
    assert done == "[DONE]"
    listed = [model["id"] for model in (await api.http.get("/v1/models")).json()["data"]]
    assert {f"{REPO}:Q4_K_M", REPO} <= set(listed)


async def test_what_lies_here_answers_the_first_request(tmp_path: Path, own_folders: Path) -> None:
    folder = own_folders / ".lmstudio" / "models" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "c-Q8_0.gguf").write_bytes(small_model(tmp_path / "d"))
    async with running_api(tmp_path / "home", discover=True) as api:
        models = (await api.http.get("/v1/models")).json()["data"]
    assert [(model["id"], model["owned_by"]) for model in models][1:] == [("a/b:Q8_0", "lm-studio")]


async def test_without_a_stream(api: Api) -> None:
    answer = await api.post("/llamaleon/pull", model=f"{REPO}:Q8_0", stream=False)
    assert answer.json() == {"status": "success", "model": f"{REPO}:Q8_0"}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "nobody/nothing"}, 404, "model"),
        ({"model": f"{REPO}:Q2_K"}, 404, "model"),
        ({"model": "a b"}, 400, "model"),
        ({"model": ""}, 400, "model"),
        ({}, 400, "model"),
        ({"model": REPO, "mirror": "file:///etc"}, 400, "mirror"),
        ({"model": REPO, "mirror": "https://user:secret@mirror.example"}, 400, "mirror"),
    ],
)
async def test_errors_before_the_stream(api: Api, body: dict[str, str], status: int, param: str) -> None:
    answer = await api.post("/llamaleon/pull", **body)
    assert answer.status_code == status, answer.text
    assert error_of(answer)["param"] == param


async def test_an_error_in_the_stream(api: Api, elsewhere: Elsewhere) -> None:
    elsewhere.faults = [Fault(wrong_bytes=True)]
    *_, last = events(await api.post("/llamaleon/pull", model=REPO))
    assert last["error"]["code"] == "download_failed"


async def test_search(api: Api) -> None:
    found = (await api.http.get("/llamaleon/search", params={"q": "gguf"})).json()
    assert [repo["id"] for repo in found["data"]] == [REPO, "somebody/Other-GGUF"]
    first = found["data"][0]
    assert [(one["name"], one["fits"], one.get("best", False)) for one in first["quants"]] == [
        (f"{REPO}:Q4_K_M", "ram", True),
        (f"{REPO}:Q8_0", "ram", False),
    ]
    assert first["downloads"] == 1000
    assert found["data"][1]["quants"][0]["name"] == "somebody/Other-GGUF/other.gguf"
    one = (await api.http.get("/llamaleon/search", params={"q": "gguf", "limit": "1"})).json()
    assert len(one["data"]) == 1


@pytest.mark.parametrize("limit", ["0", "51", "many"])
async def test_search_limits(api: Api, limit: str) -> None:
    answer = await api.http.get("/llamaleon/search", params={"q": "x", "limit": limit})
    assert error_of(answer)["param"] == "limit"


async def test_search_without_the_hub(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    answer = await api.http.get("/llamaleon/search", params={"q": "x"})
    assert (answer.status_code, error_of(answer)["code"]) == (502, "download_failed")


# ---------------------------------------------------------------- the commands


@pytest.fixture
def server(tmp_path: Path, elsewhere: Elsewhere) -> Iterator[RunningServer]:
    with RunningServer(tmp_path / "home", discover=True) as running:
        yield running


def llamaleon(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from llamaleon_clients.cli import main; main()", *arguments]
    return subprocess.run(
        [*command, "--url", server.url], capture_output=True, text=True, check=False, timeout=60
    )


def test_pull_and_search_from_the_command_line(server: RunningServer) -> None:
    done = llamaleon(server, "pull", REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Pulled {REPO}:Q4_K_M. Chat with it: llamaleon chat {REPO}:Q4_K_M\n"
    assert "Q4_K_M" in done.stderr
    assert "tiny-Q4_K_M.gguf: " in done.stderr
    again = llamaleon(server, "pull", f"{REPO}:Q8_0", "--json")
    assert json.loads(again.stdout) == {"status": "success", "model": f"{REPO}:Q8_0"}
    assert again.stderr == ""
    found = llamaleon(server, "search", "tiny")
    assert REPO in found.stdout
    assert "Q4_K_M" in found.stdout
    assert json.loads(llamaleon(server, "search", "tiny", "--json").stdout)[0]["id"] == REPO
    failed = llamaleon(server, "pull", "nobody/nothing")
    assert failed.returncode == 1
    assert "no repository nobody/nothing" in failed.stderr


def test_a_client_that_goes_away_ends_the_download(
    server: RunningServer, elsewhere: Elsewhere, own_folders: Path
) -> None:
    content = elsewhere.repos[REPO]["tiny-Q8_0.gguf"]
    pause = threading.Event()
    elsewhere.faults = [Fault(pause=pause)]
    body = {"model": f"{REPO}:Q8_0"}
    with httpx.stream("POST", f"{server.url}/llamaleon/pull", json=body, timeout=30) as answer:
        for line in answer.iter_lines():
            if '"completed":' in line and '"completed":0' not in line:
                break
    time.sleep(0.5)  # for the server to notice
    pause.set()
    blobs = own_folders / "hf" / "hub" / "models--somebody--Tiny-GGUF" / "blobs"
    time.sleep(0.5)
    assert [path.suffix for path in blobs.iterdir()] == [".incomplete"]
    assert len(httpx.get(f"{server.url}/v1/models").json()["data"]) == 1
    done = httpx.post(f"{server.url}/llamaleon/pull", json={**body, "stream": False}, timeout=30)
    assert done.json()["status"] == "success"
    begun = int(elsewhere.blob_requests()[-1].headers["range"][6:].split("-")[0])
    assert len(content) // 3 < begun < len(content)


def test_a_hundred_found_models_cost_no_start(
    server: RunningServer, own_folders: Path, tmp_path: Path
) -> None:
    """The second start knows them all; the first reads their headers while it already answers."""
    folder = own_folders / ".lmstudio" / "models" / "someone" / "Many"
    folder.mkdir(parents=True)
    for number in range(100):
        (folder / f"m{number:03d}-Q8_0.gguf").write_bytes(small_model(tmp_path / "m", seed=number))

    def listed() -> int:
        return len(httpx.get(f"{server.url}/v1/models").json()["data"])

    deadline = time.monotonic() + 60
    while listed() < 101 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert listed() == 101  # and nano
    server.stop()
    begin = time.monotonic()
    server.start()
    started_s = time.monotonic() - begin
    assert listed() == 101
    alone = RunningServer(tmp_path / "another")
    begin = time.monotonic()
    with alone:
        alone_s = time.monotonic() - begin
    assert started_s < 2 * alone_s + 1.0
