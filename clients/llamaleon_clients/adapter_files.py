"""Where the files of models and adapters lie, by name or by path; and the programs that work on them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamaleon_clients.api import Client
from llamaleon_clients.errors import BadInput, CommandRefused
from llamaleon_clients.session import connect
from llamaleon_clients.words import say

WEIGHT = re.compile(r"(?P<name>.+)\*(?P<weight>-?(?:\d+(?:\.\d*)?|\.\d+)(?:e-?\d+)?)", re.IGNORECASE)
CONVERTER, QUANTISER = "llamaleon_convert", "llamaleon_server.binding.quantize"


@dataclass(frozen=True)
class Adapter:
    path: Path
    weight: float = 1.0
    base: str | None = None  # its base's name; None for a path

    def argument(self) -> str:
        return f"{self.path.absolute()}={self.weight!r}"


class Finder:
    """Asks a server for what is no path; connects only then."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = connect(self._url)
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def __enter__(self) -> Finder:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def base(self, model: str) -> Path:
        """The GGUF of a base. Raises: BadInput if it is not on this machine or is no base."""
        path = Path(model).expanduser()
        if path.is_file():
            return path
        entry = self.client.model(model)
        if entry.get("parent") is not None:
            raise BadInput(say("{name} is not a base model.", name=model))
        return _here(Path(entry["root"]), model)

    def adapter(self, text: str, base: str | None = None) -> Adapter:
        """`NAME`, `BASE+NAME`, `NAME@3` or a path, each with `*0.7` or without."""
        name, weight = weighted(text)
        path = Path(name).expanduser()
        if path.exists() and not _is_other_folder(name):
            return Adapter(path, weight)
        bare = base is None or "+" in name or Path(base).expanduser().is_file()
        full = name if bare else f"{base}+{name}"
        entry = self.client.model(full)
        if entry.get("parent") is None or entry.get("kind") == "made":
            raise BadInput(say("{name} is not an adapter.", name=full))
        return Adapter(_here(Path(entry["root"]), full), weight, str(entry["parent"]))

    def blend(self, model: str) -> tuple[Path, list[Adapter]]:
        """`BASE+A*0.7+B`; BASE may be the path of a GGUF, and so may the others."""
        path = Path(model).expanduser()
        if path.is_file():
            return path, []
        names = [] if model.lower().split("+")[0].endswith(".gguf") else self._bases()
        fitting = [name for name in names if model == name or model.startswith(f"{name}+")]
        base = max(fitting, key=len) if fitting else model.split("+", maxsplit=1)[0]
        parts = model[len(base) + 1 :].split("+") if len(model) > len(base) else []
        return self.base(base), [self.adapter(part, base) for part in parts]

    def _bases(self) -> list[str]:
        return [str(entry["id"]) for entry in self.client.models() if entry.get("parent") is None]


def weighted(text: str) -> tuple[str, float]:
    """
    >>> weighted("poet*0.7")
    ('poet', 0.7)
    """
    found = WEIGHT.fullmatch(text)
    return (text, 1.0) if found is None else (found["name"], float(found["weight"]))


def run(module: str, *arguments: object) -> Any:
    """What `python -m module` prints as JSON, or None. Raises: CommandRefused with what it says."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    # Half of the cores: OpenBLAS's threads wait by spinning, far too long where a server wants the others.
    threads = {"OPENBLAS_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**threads, **os.environ})
    if done.returncode < 0:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise CommandRefused(
            say(
                "{module} ended by signal {number}: {reason}",
                module=module,
                number=-done.returncode,
                reason=reason,
            )
        )
    if done.returncode:
        raise CommandRefused.from_output(done.stderr.strip().rpartition("\n")[2].removeprefix("error: "))
    return json.loads(done.stdout) if done.stdout.strip() else None


def merged(base: Path, adapters: Sequence[Adapter], out: Path, *, widen: bool) -> Any:
    given = [part for adapter in adapters for part in ("--adapter", adapter.argument())]
    wide = ["--widen"] if widen else []
    return run(CONVERTER, "merge", "--base", base.absolute(), *given, *wide, "-o", out.absolute(), "--json")


def _is_other_folder(name: str) -> bool:
    """Whether a folder only bears an adapter's name, as that of a recipe's rows does."""
    return "/" not in name and Path(name).is_dir() and not Path(name, "adapter_config.json").exists()


def _here(path: Path, name: str) -> Path:
    if not path.exists():
        raise BadInput(say("The file of {name} is not on this machine: {path}", name=name, path=path))
    return path
