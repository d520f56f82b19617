"""`cuda.cpp`, compiled and loaded. This module must not import torch: it asks once, as it is imported."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("cuda.cpp")
COMPILER = os.environ.get("CXX", "c++")


def why_not() -> str | None:
    """Why there is no pretending here, None if there is."""
    if shutil.which(COMPILER) is None:
        return f"no C++ compiler ({COMPILER})"
    return None if "+cpu" in version("torch") else "torch has devices of its own"


def load() -> None:
    """Raises: subprocess.CalledProcessError; RuntimeError if torch was imported before."""
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported before the device that it is to be told of")
    ctypes.CDLL(str(_compiled()))


def _compiled() -> Path:
    """Kept among temporary files, under a name of its own for each source and torch."""
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None
    torch = Path(spec.origin).parent
    key = hashlib.sha256(SOURCE.read_bytes() + version("torch").encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"llamaleon-pretended-{os.getuid()}-{key}.so"
    if path.exists():
        return path
    made = path.with_suffix(f".{os.getpid()}")
    command = [COMPILER, "-std=c++20", "-O1", "-shared", "-fPIC", str(SOURCE), "-o", str(made)]
    command += [f"-I{torch}/include", f"-L{torch}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch}/lib"]
    subprocess.run(command, check=True)
    made.replace(path)
    return path
