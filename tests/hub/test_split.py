"""Models in several files: read as one, served as one, and every way in which they can be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.data import shared
from tests.hub.models import split
from tests.server import RunningServer
from tests.unit.server.registry.small import write_base

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import read_header
from llamaleon_convert.manifest import fingerprint
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.registry import Registry


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_base(tmp_path / "whole.gguf")


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> list[Path]:
    return split(whole, tmp_path, "m", 3)


def test_the_parts_together_are_the_whole(whole: Path, parts: list[Path]) -> None:
    one, many = read_header(whole), read_header(parts[0])
    assert {name: (t.shape, t.type, t.nbytes) for name, t in many.tensors.items()} == {
        name: (t.shape, t.type, t.nbytes) for name, t in one.tensors.items()
    }
    assert {tensor.file for tensor in many.tensors.values()} == set(parts)
    assert many.size == sum(part.stat().st_size for part in parts)
    for name, tensor in many.tensors.items():
        theirs = one.tensors[name]
        assert (
            tensor.file.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
            == whole.read_bytes()[theirs.offset : theirs.offset + theirs.nbytes]
        )
    assert fingerprint(parts[0]) == fingerprint(whole)


def test_the_trainer_reads_them_too(whole: Path, parts: list[Path]) -> None:
    from llamaleon_trainer.base.tensors import Tensors

    one, many = read_header(whole), read_header(parts[0])
    for name in one.tensors:
        assert np.array_equal(Tensors(one).read(one.tensors[name]), Tensors(many).read(many.tensors[name]))


def test_one_base_by_its_first_part(registry: Registry, parts: list[Path]) -> None:
    base = registry.add_base(parts[0])
    assert (base.name, base.path) == ("m", parts[0])
    assert base.bytes == sum(part.stat().st_size for part in parts)
    parts[1].unlink()
    assert registry.base("m").missing


def test_a_missing_part_is_named(registry: Registry, parts: list[Path]) -> None:
    parts[2].unlink()
    with pytest.raises(ConvertError, match=r"part 3 of 3 is missing: .*m-00003-of-00003\.gguf"):
        read_header(parts[0])
    with pytest.raises(BadRequest, match=r"m-00003-of-00003\.gguf: No such file"):
        registry.add_base(parts[0])


def test_another_part_than_the_first(parts: list[Path]) -> None:
    with pytest.raises(ConvertError, match=r"Give its first part: .*m-00001-of-00003\.gguf"):
        read_header(parts[1])


def test_parts_by_other_names(parts: list[Path], tmp_path: Path) -> None:
    renamed = parts[0].rename(tmp_path / "first.gguf")
    with pytest.raises(ConvertError, match="NAME-00001-of-00003"):
        read_header(renamed)


def test_parts_of_another_model(parts: list[Path], tmp_path: Path) -> None:
    shutil.copy(parts[1], parts[2])
    with pytest.raises(ConvertError, match="does not say of itself that it is part 3 of 3"):
        read_header(parts[0])
    other = write_base(tmp_path / "other.gguf", seed=1)
    (tmp_path / "b").mkdir()
    others = split(other, tmp_path / "b", "m", 3)
    shutil.copy(others[2], parts[2])
    assert read_header(parts[0])  # of the same shapes: only the weights' fingerprint could tell
    two = split(other, tmp_path / "b", "n", 2)
    shutil.copy(two[1], tmp_path / "n-00002-of-00002.gguf")
    shutil.copy(parts[0], tmp_path / "n-00001-of-00002.gguf")
    with pytest.raises(ConvertError, match="one of 3 parts"):
        read_header(tmp_path / "n-00001-of-00002.gguf")


def test_a_truncated_part(parts: list[Path]) -> None:
    parts[1].write_bytes(parts[1].read_bytes()[:-64])
    with pytest.raises(ConvertError, match=r"m-00002-of-00003\.gguf: truncated"):
        read_header(parts[0])


def test_served_as_the_whole_is(tmp_path: Path) -> None:
    """The real model, real engines: the same text to the same prompt, from four files and from one."""
    whole = shared("stories260K/stories260K-f32.gguf")
    parts = split(whole, tmp_path, "stories", 4)
    models = ["--model", str(whole), "--model", str(parts[0])]
    exact = ["--kv-type", "f32", "--no-flash-attention", "--parallel", "1", "--context", "128"]
    with RunningServer(tmp_path / "home", [*models, *exact]) as server:
        answers = [
            httpx.post(
                f"{server.url}/v1/completions",
                json={"model": model, "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0},
                timeout=60,
            ).json()["choices"][0]["text"]
            for model in ("stories260K-f32", "stories")
        ]
        listed = {m["id"]: m for m in httpx.get(f"{server.url}/v1/models").json()["data"]}
    assert answers[0] == answers[1]
    assert len(answers[0]) > 10
    assert listed["stories"]["bytes"] == sum(part.stat().st_size for part in parts)
