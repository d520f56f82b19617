"""What jobs learnt about this machine's speed, kept beside their directories. No torch here."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from .estimate import GUESS, Speed
from .job import JobSpec, write_atomic

FILE = "training-speeds.json"


class Speeds(Struct):
    """By device and precision; of bases also by their name and how they lie in memory."""

    machine: dict[str, Speed] = {}
    bases: dict[str, Speed] = {}


def speeds_path(job_dir: Path) -> Path:
    """Shared by all jobs of one $LLAMALEON_HOME."""
    return job_dir.parent / FILE


def read_speeds(path: Path) -> Speeds:
    """What is there; nothing if there is no such file, or one of another version."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Speeds)
    except (OSError, msgspec.DecodeError):
        return Speeds()


def find_speed(path: Path, spec: JobSpec, device: str = "cpu", precision: str = "float32") -> Speed:
    """That of this base if one was trained here before, else of the machine, else a guess."""
    speeds, machine = read_speeds(path), f"{device} {precision}"
    return speeds.bases.get(_base(spec, machine)) or speeds.machine.get(machine) or GUESS


def note_speed(path: Path, spec: JobSpec, device: str, precision: str, speed: Speed) -> None:
    """Remember what a job measured. What it says of the machine stands in for bases not trained yet."""
    speeds, machine = read_speeds(path), f"{device} {precision}"
    speeds.bases[_base(spec, machine)] = msgspec.structs.replace(speed, basis="earlier jobs on this base")
    if machine not in speeds.machine:
        speeds.machine[machine] = msgspec.structs.replace(speed, basis="an earlier job on another base")
    write_atomic(path, msgspec.json.encode(speeds))


def _base(spec: JobSpec, machine: str) -> str:
    return f"{machine} {spec.base_weights} {Path(spec.base).name}"
