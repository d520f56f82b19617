"""Jobs from files and flags of other trainers: our YAML, an Axolotl `config.yml`, Olive's `finetune`.

Each becomes the flat settings of `llamaleon_clients.training`: what a job has, and hyperparameters by the
API's names. What cannot be honoured is said on standard error, with its line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamaleon_clients.api import Client

SUFFIXES = (".yml", ".yaml")


def is_job_file(data: str | Path | None) -> bool:
    return data is not None and Path(data).suffix.lower() in SUFFIXES


def read(path: Path) -> dict[str, Any]:
    """The settings of the job that a file describes; paths in it are relative to it.

    Raises:
        BadInput: no such file, not YAML, an unknown key, or what cannot be a job; with key and line.
    """
    from llamaleon_clients.console import note
    from llamaleon_clients.jobfiles import axolotl, ours
    from llamaleon_clients.jobfiles.loading import load

    document = load(path)
    if not axolotl.looks_like_one(document):
        return ours.settings_of(document)
    settings, warnings = axolotl.settings_of(document)
    for warning in warnings:
        note(f"{path.name}, {warning}")
    return settings


def settled(client: Client, settings: dict[str, Any]) -> dict[str, Any]:
    """With the base by the name that this server knows. Raises: BadInput if it knows none."""
    from llamaleon_clients.jobfiles.bases import served_base

    if not settings.get("base"):
        return settings
    return {**settings, "base": served_base(client, str(settings["base"]))}


@contextmanager
def lines_of(path: Path) -> Iterator[None]:
    """What the server refuses by the name of a setting is told with the line of the file that set it."""
    from llamaleon_clients.errors import ServerRefused
    from llamaleon_clients.jobfiles.axolotl import RENAMED
    from llamaleon_clients.jobfiles.loading import load

    try:
        yield
    except ServerRefused as error:
        if error.param is None:
            raise
        document = load(path)
        last = error.param.rpartition(".")[2]
        others = [key for key, name in RENAMED.items() if name == last]
        for key in (last, f"hyperparameters.{last}", *others):
            if key in document.lines:
                raise document.mistake(key, error.message) from error
        raise
