"""`export`, `combine`, `extract`, `unconvert`: names become files, and the programs that work on them run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.lora import random_lora
from tests.tiny import plain
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer

from llamaleon_clients.adapter_files import Finder, run, weighted
from llamaleon_clients.errors import BadInput, CommandRefused
from llamaleon_convert.header import read_header
from llamaleon_convert.manifest import manifest_of

Q = "blk.0.attn_q.weight"


@pytest.fixture
def base(tmp_path: Path, server: FakeServer) -> Path:
    """Registered as `nano`, with `poet` and `brief` on it; and as `odd+name`, which has none."""
    path = plain.write_base(tmp_path / "base.gguf")
    server.models["nano"] |= {"root": str(path), "parent": None, "kind": "base"}
    server.models["odd+name"] = {"id": "odd+name", "root": str(path), "parent": None, "kind": "base"}
    for seed, name in enumerate(("poet", "brief")):
        lora = random_lora(path, tmp_path / f"{name}.gguf", seed=seed, rank=2 + seed)
        entry = {"id": f"nano+{name}", "root": str(lora), "parent": "nano", "kind": "adapter"}
        server.models |= {name: entry, f"nano+{name}": entry}
    return path


def test_weights() -> None:
    assert weighted("poet*0.7") == ("poet", 0.7)
    assert weighted("poet@3*-1e-2") == ("poet@3", -0.01)
    assert weighted("a*b/poet") == ("a*b/poet", 1.0)


def test_blends_are_read(base: Path, server: FakeServer, tmp_path: Path) -> None:
    with Finder(server.url) as finder:
        path, adapters = finder.blend("nano+poet*0.7+brief")
        assert (path, [one.weight for one in adapters]) == (base, [0.7, 1.0])
        assert [one.path.name for one in adapters] == ["poet.gguf", "brief.gguf"]
        assert finder.blend("odd+name") == (base, [])
        path, adapters = finder.blend(f"{base}+{tmp_path / 'poet.gguf'}*2")
        assert (path, adapters[0].path, adapters[0].weight) == (base, tmp_path / "poet.gguf", 2.0)
        with pytest.raises(BadInput, match=r"nano\+poet is not a base"):
            finder.base("nano+poet")
        with pytest.raises(BadInput, match="nano is not an adapter"):
            finder.adapter("nano")
        (tmp_path / "brief.gguf").unlink()
        with pytest.raises(BadInput, match="not on this machine"):
            finder.adapter("brief")


def test_a_folder_that_only_bears_an_adapters_name_is_not_it(
    base: Path, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe writes its rows to one."""
    folder = tmp_path / "beside" / "poet"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    with Finder(server.url) as finder:
        assert finder.adapter("poet*0.5", "nano").path == tmp_path / "poet.gguf"
        assert finder.adapter("./poet").path == Path("poet")  # the converter says what it lacks
        (folder / "adapter_config.json").write_text("{}")
        assert finder.adapter("poet").path == Path("poet")


def test_export(base: Path, llamaleon: Llamaleon, server: FakeServer, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    result = llamaleon("export", "nano+poet*0.5", "-o", str(out), "--url", server.url, "--name", "whole")
    assert result.exit_code == 0, result.output
    assert "Wrote" in result.stdout
    assert read_header(out).tensors.keys() == read_header(base).tensors.keys()
    assert not np.array_equal(plain.tensor_of(out, Q), plain.tensor_of(base, Q))
    assert ("POST", "base", {"path": str(out), "name": "whole"}) in server.requests
    assert not list(tmp_path.glob(".export-*"))


def test_combine_by_name_is_served(
    base: Path, llamaleon: Llamaleon, server: FakeServer, tmp_path: Path
) -> None:
    result = llamaleon("combine", "poet*0.7", "brief*0.3", "--name", "both", "--url", server.url, "--json")
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout)
    assert (done["rank"], done["error"], done["name"], done["path"]) == (5, 0.0, "nano+both", None)
    (loaded,) = [body for _, kind, body in server.requests if kind == "adapter"]
    assert (loaded["lora_name"], loaded["base_model_name"], loaded["load_inplace"]) == ("both", "nano", True)


def test_combine_of_files_needs_a_base(base: Path, llamaleon: Llamaleon, tmp_path: Path) -> None:
    files, out = [str(tmp_path / f"{name}.gguf") for name in ("poet", "brief")], tmp_path / "out.gguf"
    missing = llamaleon("combine", *files, "-o", str(out))
    assert (missing.exit_code, "give --base" in missing.stderr) == (1, True)
    nowhere = llamaleon("combine", *files, "--base", str(base))
    assert (nowhere.exit_code, "--output, --name" in nowhere.stderr) == (1, True)
    wrong = llamaleon("combine", *files, "--base", str(base), "-o", str(out), "--method", "slerp")
    assert (wrong.exit_code, "slerp's weights are shares" in wrong.stderr) == (1, True)
    assert not out.exists()
    done = llamaleon(
        "combine", *files, "--base", str(base), "-o", str(out), "--method", "ties", "--rank", "3"
    )
    assert done.exit_code == 0, done.output
    assert "Rank 3; lost of the change: " in done.stdout
    assert manifest_of(out).rank == 3


def test_extract(base: Path, llamaleon: Llamaleon, server: FakeServer, tmp_path: Path) -> None:
    llamaleon("export", "nano+poet", "-o", str(tmp_path / "tuned.gguf"), "--url", server.url)
    out = tmp_path / "lora.gguf"
    tuned = ["--tuned", str(tmp_path / "tuned.gguf"), "-o", str(out), "--rank", "2"]
    result = llamaleon("extract", "--base", "nano", *tuned, "--url", server.url, "--name", "again")
    assert result.exit_code == 0, result.output
    assert "Rank 2; lost of the change: 0.00%." in result.stdout
    assert "It answers as nano+again." in result.stdout
    assert manifest_of(out).source == "extracted"
    other = llamaleon(
        "extract", "--base", "nano", "--tuned", str(tmp_path / "no"), "--name", "x", "--url", server.url
    )
    assert (other.exit_code, "does not exist" in other.stderr) == (1, True)


def test_to_peft(base: Path, llamaleon: Llamaleon, server: FakeServer, tmp_path: Path) -> None:
    where = ["-o", str(tmp_path / "peft"), "--url", server.url]
    result = llamaleon("unconvert", "nano+poet", *where, "--base-name", "org/model")
    assert result.exit_code == 0, result.output
    assert "4 modules" in result.stdout
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, "org/model")
    file = llamaleon("unconvert", str(tmp_path / "poet.gguf"), "-o", str(tmp_path / "b"))
    assert (file.exit_code, "give --base" in file.stderr) == (1, True)


def test_a_program_that_refuses_or_dies() -> None:
    with pytest.raises(CommandRefused, match="No such file"):
        run("llamaleon_convert", "merge", "--base", "none.gguf", "--adapter", "x=1", "-o", "y", "--json")
    with pytest.raises(CommandRefused, match="Q9 is no type"):
        run("llamaleon_server.binding.quantize", "none.gguf", "y", "q9")


def test_a_native_abort_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What llama.cpp aborts on kills its own process only."""
    (tmp_path / "dies.py").write_text(
        "import os, sys; sys.stderr.write('GGML_ASSERT(x)'); sys.stderr.flush(); os.abort()"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CommandRefused, match=r"ended by signal 6: GGML_ASSERT\(x\)"):
        run("dies")
