"""`python -m tests.device_engine SPEC`: an engine that has a device, as on a machine with a GPU.

llama.cpp computes on other machines through its RPC backend. Here a thread of the same process serves that
and computes on the processor: a device all the same, whose memory is not the host's. So what a GPU needs of
the engine is tested where there is none: layers offloaded, products multiplied on the device, adapters and
prefixes copied to it and back. It needs a llama.cpp built with GGML_RPC, as `make setup` builds it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import threading
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

engine: Any = import_module("llamaleon_server.engine.__main__")
DEVICES = "LLAMALEON_TEST_DEVICES"  # how many
FREE_PORT = ("127.0.0.1", 0)
LIBRARY = "libggml-rpc.so"
CPU = 0  # enum ggml_backend_dev_type
PATIENCE_S = 10.0


def rpc_library() -> Path | None:
    """None: this llama.cpp was built without it. The package is not imported: only its place is asked for."""
    found = find_spec("llama_cpp")
    path = Path(found.origin or "").parent / "lib" / LIBRARY if found else None
    return path if path and path.exists() else None


def lend_device() -> None:
    """Serve a device and register it, so that llama.cpp offloads to it."""
    from llamaleon_server.binding.library import ggml

    rpc = ctypes.CDLL(str(rpc_library()))
    with socket.socket() as taken:
        taken.bind(FREE_PORT)
        host, port = taken.getsockname()
    endpoint = f"{host}:{port}".encode()
    ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    devices = (ctypes.c_void_p * 1)(ggml.ggml_backend_dev_by_type(CPU))
    no_cache, threads, count = None, ctypes.c_size_t(1), ctypes.c_size_t(1)
    arguments = endpoint, no_cache, threads, count, devices
    threading.Thread(target=rpc.ggml_backend_rpc_start_server, args=arguments, daemon=True).start()
    _wait_for(host, port)
    rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    ggml.ggml_backend_register(ctypes.c_void_p(rpc.ggml_backend_rpc_add_server(endpoint)))


def _wait_for(host: str, port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((host, port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def main() -> int:
    settle = engine.settle

    def settle_and_lend(threads: int) -> None:
        """The last that happens before llama.cpp is loaded: from here on its start lends devices."""
        settle(threads)
        from llamaleon_server.binding import library

        start = library.start

        def start_and_lend() -> None:
            start()
            for _ in range(int(os.environ.get(DEVICES, "1"))):
                lend_device()

        library.start = start_and_lend

    engine.settle = settle_and_lend
    status: int = engine.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
