"""What machine the figures are from."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import psutil


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe() -> str:
    memory = psutil.virtual_memory().total / 2**30
    parts = [f"{psutil.cpu_count()} cores of {cpu_name()}, {memory:.0f} GiB, no GPU used", platform.system()]
    parts.append(f"Python {platform.python_version()}")
    parts += [f"{name} {version(name)}" for name in ("llama-cpp-python", "torch", "transformers", "peft")]
    return ", ".join(parts)
