"""What machine the figures are from."""

from __future__ import annotations

import platform
import subprocess
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


def gpu_names() -> str:
    """As the driver lists them. Raises: OSError or CalledProcessError without a driver."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)
    return ", ".join(listed.stdout.split("\n")[:-1])


def describe(*, gpu: bool = False) -> str:
    used = gpu_names() if gpu else "no GPU used"
    memory = psutil.virtual_memory().total / 2**30
    parts = [f"{psutil.cpu_count()} cores of {cpu_name()}, {memory:.0f} GiB, {used}", platform.system()]
    parts.append(f"Python {platform.python_version()}")
    parts += [f"{name} {version(name)}" for name in ("llama-cpp-python", "torch", "transformers", "peft")]
    return ", ".join(parts)
