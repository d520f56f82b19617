"""Where real inputs lie: the shipped model, and data sets beside the checkout that are used in place."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
NANO = REPOSITORY / "server" / "llamaleon_server" / "models" / "nano.gguf"
DATA = Path(os.environ.get("LLAMALEON_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


def shared(name: str) -> Path:
    """Path of a data file, or skip: a checkout without the data folder still passes on the shipped model."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} under $LLAMALEON_TEST_DATA")
    return path
