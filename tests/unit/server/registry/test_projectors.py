"""Which projector a model gets: the one named, or one beside its file that fits it."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from tests.api import error_of, running_api
from tests.unit.server.registry.small import write_base

from llamaleon_server.app import create_app
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.projectors import check_projector, projector_beside
from llamaleon_server.registry.registry import Registry
from llamaleon_server.settings import Settings

WIDTH = 16  # of the base


def projector(path: Path, *, width: int = WIDTH, kind: str = "clip", sees: bool = True) -> Path:
    writer = gguf.GGUFWriter(path, kind)
    if sees:
        writer.add_bool("clip.has_vision_encoder", True)
    writer.add_uint32("clip.vision.projection_dim", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_one_that_fits_and_is_called_most_alike(tmp_path: Path) -> None:
    model = write_base(tmp_path / "llava-7b-q4.gguf")
    assert projector_beside(model) is None
    projector(tmp_path / "mmproj-wide.gguf", width=64)
    (tmp_path / "mmproj-broken.gguf").write_bytes(b"GGUF")
    projector(tmp_path / "mmproj-deaf.gguf", sees=False)
    projector(tmp_path / "other.gguf")
    assert projector_beside(model) is None
    plain = projector(tmp_path / "mmproj-F16.gguf")
    assert projector_beside(model) == plain
    alike = projector(tmp_path / "llava-7b-mmproj.gguf")
    assert projector_beside(model) == alike


def test_a_base_takes_what_lies_beside_it_or_is_named(tmp_path: Path) -> None:
    model = write_base(tmp_path / "tiny.gguf")
    beside, named = projector(tmp_path / "mmproj-a.gguf"), projector(tmp_path / "eyes.gguf")
    registry = Registry.open(tmp_path / "home")
    try:
        assert registry.add_base(model).projector == beside
        assert registry.add_base(model, projector=named).projector == named
        assert registry.add_base(model).projector == named  # said once
        assert registry.base("tiny").projector == named
        named.unlink()
        assert registry.add_base(model).projector == beside
    finally:
        registry.close()


@pytest.mark.parametrize("wrong", ["missing", "wide", "language", "deaf"])
def test_a_wrong_one_is_refused_by_name(wrong: str, tmp_path: Path) -> None:
    model = write_base(tmp_path / "tiny.gguf")
    path = tmp_path / "eyes.gguf"
    if wrong == "wide":
        projector(path, width=64)
    elif wrong == "deaf":
        projector(path, sees=False)
    elif wrong == "language":
        path = model
    with pytest.raises(BadRequest) as error:
        check_projector(path, model)
    assert error.value.param == "projector"


async def test_named_over_http_and_on_the_command_line(tmp_path: Path) -> None:
    model = write_base(tmp_path / "tiny.gguf")
    eyes, wide = projector(tmp_path / "eyes.gguf"), projector(tmp_path / "wide.gguf", width=64)
    async with running_api(tmp_path / "home", model, projector=eyes) as api:
        shown = await api.http.get("/llamaleon/models/tiny")
        assert shown.json()["projector"] == str(eyes)
        body = {"path": str(model), "name": "other"}
        refused = await api.post("/llamaleon/bases", **body, projector=str(wide))
        assert (refused.status_code, error_of(refused)["param"]) == (400, "projector")
        added = await api.post("/llamaleon/bases", **body, projector=str(eyes))
        assert added.json()["projector"] == str(eyes)
    with pytest.raises(BadRequest) as error:
        create_app(Settings(home=tmp_path / "home", models=(str(model), str(wide)), projector=eyes))
    assert error.value.param == "projector"
