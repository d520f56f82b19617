"""The API over a base named `tiny` with a ChatML template, and one named `bare` without a template."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.api import CHATML, Api, running_api
from tests.unit.server.chat.dialects.samples import TEMPLATES
from tests.unit.server.registry.small import write_base
from tests.unit.server.web.speaking import TEMPLATE

from llamaleon_server.testing import FakeEngines


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    tiny = write_base(tmp_path / "tiny.gguf", template=CHATML)
    bare = write_base(tmp_path / "bare.gguf", seed=1)
    async with running_api(tmp_path / "home", tiny, bare) as running:
        yield running


@pytest.fixture
async def tools_api(tmp_path: Path) -> AsyncIterator[Api]:
    bases = [
        write_base(tmp_path / f"{name}.gguf", template=(TEMPLATES / f"{file}.jinja").read_text("utf-8"))
        for name, file in TEMPLATE.items()
    ]
    engines = FakeEngines(context_tokens=1_000_000)
    async with running_api(tmp_path / "home", *bases, engines=engines) as api:
        yield api
