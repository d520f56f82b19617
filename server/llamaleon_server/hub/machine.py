"""How much memory a model may take on this machine, now."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Literal

from msgspec import Struct

CGROUP = Path("/sys/fs/cgroup")
ROOM_LEAST, ROOM_SHARE = 512 << 20, 0.15  # for the KV cache and the buffers of a pass, beside the weights

Fit = Literal["gpu", "ram", "no"]


class Machine(Struct, frozen=True, kw_only=True):
    """Free bytes: of main memory, and of all GPUs together."""

    ram_bytes: int
    gpu_bytes: int = 0

    def fit(self, model_bytes: int) -> Fit:
        """Where a model finds room, with its KV cache: on the GPUs alone, or with main memory, or nowhere."""
        needed = model_bytes + room_beside(model_bytes)
        if needed <= self.gpu_bytes:
            return "gpu"
        return "ram" if needed <= self.ram_bytes + self.gpu_bytes else "no"

    def __str__(self) -> str:
        ram = f"{self.ram_bytes / 1e9:.1f} GB of memory free"
        return f"{ram}, {self.gpu_bytes / 1e9:.1f} GB on the GPU" if self.gpu_bytes else ram


def room_beside(model_bytes: int) -> int:
    return max(ROOM_LEAST, int(ROOM_SHARE * model_bytes))


def measured() -> Machine:
    """Asks the system, and `nvidia-smi` where there is one; takes up to some tenths of a second."""
    import psutil

    available = int(psutil.virtual_memory().available)
    limit = _container_bytes(CGROUP)
    return Machine(ram_bytes=available if limit is None else min(available, limit), gpu_bytes=_gpu_bytes())


def _container_bytes(folder: Path) -> int | None:
    """What is left of a container's own limit; None without one."""
    try:
        most = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        cached = next(
            int(line.split()[1])
            for line in (folder / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, ValueError, StopIteration):  # no container, or one of another kind
        return None
    return None if most == "max" else max(0, int(most) - used + cached)


def _gpu_bytes() -> int:
    """Of NVIDIA's GPUs. Where the GPU shares the main memory (Apple), that is what counts."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    try:
        answer = subprocess.run(
            [command, "--query-gpu=memory.free", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        return sum(int(line) << 20 for line in answer.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):  # a driver that does not answer: no GPU for us
        return 0
