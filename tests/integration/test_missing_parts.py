"""Installed without an extra: the message says which one to install."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from tests.data import NANO
from tests.integration.flow import start_job, wait_for, write_jsonl
from tests.server import RunningServer


@pytest.fixture
def hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules come first in every process that is started."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_serving_without_llama_cpp(hide: Path, tmp_path: Path) -> None:
    (hide / "llama_cpp.py").write_text("raise ModuleNotFoundError(\"No module named 'llama_cpp'\")\n")
    wanted = pytest.raises(openai.APIStatusError, match=r"llamaleon\[engine\]")
    with RunningServer(tmp_path / "home") as server, wanted:
        server.openai(max_retries=0).completions.create(model=NANO.stem, prompt="Hola")


def test_training_without_torch(hide: Path, tmp_path: Path) -> None:
    (hide / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")\n")
    rows = [{"prompt": f"{number}", "completion": "uno"} for number in range(4)]
    with RunningServer(tmp_path / "home") as server:
        client = server.openai()
        job = start_job(client, write_jsonl(tmp_path / "rows.jsonl", rows), base=NANO.stem)
        job = wait_for(client, job.id)
        assert job.status == "failed"
        assert "llamaleon[train]" in job.error.message
