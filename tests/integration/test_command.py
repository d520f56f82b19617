"""The `llamaleon` command as a newcomer types it: real processes, nothing running, a model given by path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.data import shared
from tests.integration.flow import BASE, gsm8k_rows, write_jsonl

COMMAND = "from llamaleon_clients.cli import main; main()"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def llamaleon(tmp_path: Path) -> Iterator[Run]:
    """Runs the command on a home of its own, and stops the server that it started."""
    environment = {**os.environ, "LLAMALEON_HOME": str(tmp_path / "home"), "LLAMALEON_LANG": "en"}
    environment.pop("LLAMALEON_URL", None)

    def run(*arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            env=environment, input=input, capture_output=True, encoding="utf-8", timeout=300, check=False,
        )  # fmt: skip

    yield run
    run("stop")


def test_train_chat_and_remove_with_nothing_running(llamaleon: Run, tmp_path: Path) -> None:
    gguf = shared("stories260K/stories260K-f32.gguf")
    rows = write_jsonl(tmp_path / "cuentas.jsonl", gsm8k_rows(24))

    trained = llamaleon(
        "train", str(rows), "--base", str(gguf), "--name", "cuentas", "--epochs", "2", "--batch-size", "8",
        "--learning-rate", "4e-3", "--seed", "3",
    )  # fmt: skip

    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert trained.stderr.startswith("Started a server at http://127.0.0.1:")
    assert "6/6  loss " in trained.stderr
    assert "Parity over " in trained.stdout
    assert f"Deployed as {BASE}+cuentas (ft:{BASE}:local:cuentas:" in trained.stdout
    snippet = trained.stdout[trained.stdout.index("from openai import") :]
    pasted = subprocess.run([sys.executable, "-c", snippet], capture_output=True, check=False, timeout=60)
    assert pasted.returncode == 0, pasted.stderr
    assert pasted.stdout.strip()

    asked = llamaleon(
        "chat", f"{BASE}+cuentas", "--temperature", "0", "--max-tokens", "12", input="¿Cuántos €?"
    )
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.strip()

    models = json.loads(llamaleon("ls", "--json").stdout)
    assert {"nano", BASE, f"{BASE}+cuentas"} >= {entry["id"] for entry in models} >= {BASE, f"{BASE}+cuentas"}
    assert "evaluation.parity.mean_kl" in llamaleon("show", f"{BASE}+cuentas").stdout
    assert BASE in llamaleon("ps").stdout
    assert "succeeded" in llamaleon("jobs").stdout

    assert llamaleon("rm", f"{BASE}+cuentas").returncode == 0
    gone = llamaleon("chat", f"{BASE}+cuentas", "Hola")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith(f"Error: The model `{BASE}+cuentas` does not exist. Nearest names: {BASE}")
    assert llamaleon("stop").stdout.startswith("Stopped the server at ")
    assert llamaleon("ps").stdout == "No server is running.\n"


def test_bad_rows_are_listed_by_line(llamaleon: Run, tmp_path: Path) -> None:
    gguf = shared("stories260K/stories260K-f32.gguf")
    rows = tmp_path / "filas.jsonl"
    rows.write_text('{"prompt": "¿A?", "completion": "b"}\n{"prompt": 3}\nno es JSON\n', "utf-8")

    refused = llamaleon("train", str(rows), "--base", str(gguf), "--name", "mal")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "filas.jsonl: 2 of 3 rows are malformed." in refused.stderr
    assert "\n  line 2: " in refused.stderr
    assert "\n  line 3: " in refused.stderr
    assert "Traceback" not in refused.stderr
