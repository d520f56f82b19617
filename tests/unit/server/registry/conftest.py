"""A registry in a fresh home, with one tiny base model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lora import random_lora
from tests.unit.server.registry.small import write_base

from llamaleon_convert import check_lora
from llamaleon_convert.header import read_header
from llamaleon_server.registry.records import AdapterVersion, Base
from llamaleon_server.registry.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry.open(tmp_path / "home")
    yield opened
    opened.close()


@pytest.fixture
def base(registry: Registry, tmp_path: Path) -> Base:
    return registry.add_base(write_base(tmp_path / "tiny.gguf"))


class Adder:
    """Adds adapters of distinct content by name."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.registry = registry
        self.folder = folder
        self.seed = 0

    def __call__(
        self, base: Base, name: str, *, deploy: bool = True, ft_name: str | None = None
    ) -> AdapterVersion:
        self.seed += 1
        gguf = random_lora(base.path, self.folder / f"{name}-{self.seed}.gguf", seed=self.seed)
        manifest = check_lora(gguf, read_header(base.path))
        return self.registry.add_adapter(base, name, gguf, manifest, deploy=deploy, ft_name=ft_name)


@pytest.fixture
def add(registry: Registry, tmp_path: Path) -> Adder:
    return Adder(registry, tmp_path)
