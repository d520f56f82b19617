"""Where models lie on this disk: the folders of other programs, as those programs find them themselves."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


def hub_cache() -> Path:
    """The Hugging Face hub's. Source: huggingface_hub/constants.py, HF_HUB_CACHE"""
    for name, inside in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if folder := os.environ.get(name):
            return Path(os.path.expandvars(folder)).expanduser() / inside
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "huggingface" / "hub"


def ollama_stores() -> list[Path]:
    """Ollama's: the user's own, and that of the service which its Linux installer sets up."""
    if folder := os.environ.get("OLLAMA_MODELS"):
        return [Path(folder).expanduser()]
    return [Path("~/.ollama/models").expanduser(), Path("/usr/share/ollama/.ollama/models")]


def lm_studio_folders() -> list[Path]:
    """LM Studio's: what its settings say, and its default places, newest first.

    Source: https://github.com/lmstudio-ai/lms/blob/main/src/modelsFolder.ts
    """
    homes = [Path("~/.lmstudio").expanduser(), Path("~/.cache/lm-studio").expanduser()]
    try:
        moved = Path("~/.lmstudio-home-pointer").expanduser().read_text(encoding="utf-8").strip()
        homes.insert(0, Path(moved).expanduser())
    except (OSError, UnicodeDecodeError):
        log.debug("LM Studio's home was not moved")
    folders = [folder for home in homes if (folder := _downloads_folder(home)) is not None]
    return list(dict.fromkeys([*folders, *(home / "models" for home in homes)]))


def _downloads_folder(home: Path) -> Path | None:
    """The user's own choice; None if the settings are not there or not of this kind."""
    try:
        chosen = json.loads((home / "settings.json").read_bytes())["downloadsFolder"]
        return Path(chosen).expanduser()
    except (OSError, ValueError, KeyError, TypeError):
        return None
