"""Two versions may have the same contents; when the file of one is deleted, the other goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.engine_process import EngineProcess
from tests.lora import random_lora

from llamaleon_server.engine.protocol import AdapterUse

EXACT = {"flash_attention": False, "kv_type": "f32", "threads": 1, "speculation": False}


def test_a_cold_adapter_is_read_where_it_was_last_said_to_be(stories: Path, tmp_path: Path) -> None:
    files = {key: random_lora(stories, tmp_path / f"{key}.gguf", seed=ord(key)) for key in "pqr"}
    moved = Path(shutil.copy(files["p"], tmp_path / "moved.gguf"))

    # A bank for one adapter and no RAM for others: whoever is not in the bank is cold.
    with EngineProcess(stories, bank_ranks=16, adapter_ram_bytes=0, **EXACT) as engine:

        def answer(key: str) -> list[int]:
            return engine.generate("Once upon a time", adapters=(AdapterUse(key),), max_tokens=20).tokens

        engine.load("p", files["p"])
        before = answer("p")
        for key in "qr":
            engine.load(key, files[key])
            answer(key)
        assert engine.status.bank.cold_adapters >= 2
        files["p"].unlink()
        engine.load("p", moved)
        assert answer("p") == before
