"""`llamaleon recipe`: the job that it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer


def asked(llamaleon: Llamaleon, server: FakeServer, folder: Path, name: str, *more: str) -> dict[str, Any]:
    rows = ("--rows", "20", "--held-out", "10")
    done = llamaleon("recipe", name, "--out", str(folder), *rows, "--url", server.url, *more)
    assert f"{name}_train.jsonl" in done.stderr.replace("\n", ""), done.output
    return next(body for _, kind, body in server.requests if kind == "job")


@pytest.mark.parametrize("name", ["extractor", "code"])
def test_the_head_of_the_model_that_ships_is_trained(
    llamaleon: Llamaleon, server: FakeServer, tmp_path: Path, name: str
) -> None:
    """Without it nano never says with any confidence what it was not taught, `today` or a bracket."""
    body = asked(llamaleon, server, tmp_path, name)
    targets = body["method"]["supervised"]["hyperparameters"]["lora_target_modules"]
    assert "lm_head" in targets
    assert "q_proj" in targets
    assert (body["model"], body["suffix"]) == ("nano", name)


def test_other_models_are_trained_with_what_is_automatic(
    llamaleon: Llamaleon, server: FakeServer, tmp_path: Path
) -> None:
    server.models["qwen"] = {"id": "qwen"}
    body = asked(llamaleon, server, tmp_path, "extractor", "--base", "qwen")
    assert body["model"] == "qwen"
    assert "method" not in body
