"""`python -m llamaleon_convert`, and what importing the package costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny import plain

from llamaleon_convert.__main__ import main
from llamaleon_convert.manifest import manifest_of


def test_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, peft_dir = plain.write_base(tmp_path / "base.gguf"), plain.write_peft(tmp_path / "peft")
    assert main([str(peft_dir), "--base", str(base), "-o", str(tmp_path / "out.gguf")]) == 0
    printed = capsys.readouterr()
    assert "qwen2, rank 4, alpha 8, 4 tensors" in printed.out
    assert printed.err == ""
    assert manifest_of(tmp_path / "out.gguf").rank == 4


def test_json_and_the_default_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, peft_dir = plain.write_base(tmp_path / "base.gguf"), plain.write_peft(tmp_path / "peft")
    assert main([str(peft_dir), "--base", str(base), "--json", "--scale", "2"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["alpha"] == 16.0
    assert manifest["sha256"] == manifest_of(peft_dir / "adapter.gguf").sha256


def test_refusal_goes_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, peft_dir = (
        plain.write_base(tmp_path / "base.gguf"),
        plain.write_peft(tmp_path / "peft", use_dora=True),
    )
    assert main([str(peft_dir), "--base", str(base)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert "DoRA" in printed.err
    assert main([str(peft_dir), "--base", str(base), "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "DoRA" in json.loads(printed.err)["error"]["message"]


def test_help_and_imports_are_cheap() -> None:
    code = (
        "import sys, llamaleon_convert, llamaleon_convert.header, llamaleon_convert.manifest, "
        "llamaleon_convert.__main__ as cli\n"
        "heavy = {'numpy', 'gguf', 'torch', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "cli.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--base" in done.stdout
    assert "DoRA" in done.stdout


def test_conversion_needs_no_torch_and_copying_no_numpy(tmp_path: Path) -> None:
    base, peft_dir = plain.write_base(tmp_path / "base.gguf"), plain.write_peft(tmp_path / "peft")
    code = (
        "import sys\n"
        "from llamaleon_convert.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        "assert not {'torch', 'transformers', 'peft', 'llama_cpp', 'numpy'} & set(sys.modules)\n"
        "sys.exit(status)"
    )
    command = [sys.executable, "-c", code, str(peft_dir), "--base", str(base), "-o", str(tmp_path / "o.gguf")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "o.gguf").exists()
