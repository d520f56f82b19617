"""The loaded library: its log and its devices.

llama.cpp reports the reason of a failure only through its log, so every call that may fail runs inside
`native_errors()`, which collects the error lines logged meanwhile.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp.llama_cpp as native

LOG_WARN, LOG_ERROR, LOG_CONTINUED = 3, 4, 5
DEVICE_GPU, DEVICE_INTEGRATED_GPU = 1, 2

# ggml as llama.cpp uses it: a name looked up in a library is found in those that it was linked with, too.
# The wheel holds each of them as files of several names; opened by another, it would be loaded a second time,
# with devices and counters of its own.
ggml: Any = native._lib


class _Log(threading.local):
    """Of one thread: llama.cpp logs on the thread that called it, and several load at once."""

    def __init__(self) -> None:
        self.collecting: list[tuple[int, list[str]]] = []  # from this level on
        self.quiet = 0
        self.last_level = LOG_WARN


_log = _Log()


def _on_log(level: int, text: bytes | None, _user: Any) -> None:
    _log.last_level = level = _log.last_level if level == LOG_CONTINUED else level
    if level < LOG_WARN or text is None:
        return
    line = text.decode(errors="replace")
    for least, lines in _log.collecting:
        if least <= level <= LOG_ERROR:
            lines.append(line.strip())
    if not _log.quiet:
        sys.stderr.write(line)


log_callback = native.llama_log_callback(_on_log)  # kept: llama.cpp holds only its address


def start() -> None:
    """Initialise llama.cpp once per process; its log goes to standard error, never to standard output."""
    native.llama_log_set(log_callback, ctypes.c_void_p(0))
    native.llama_backend_init()


@contextmanager
def silence() -> Iterator[None]:
    """Keep llama.cpp's log to itself inside the block: for a failure that is wanted."""
    _log.quiet += 1
    try:
        yield
    finally:
        _log.quiet -= 1


@contextmanager
def native_errors() -> Iterator[list[str]]:
    """Collect the error lines that llama.cpp logs inside the block."""
    with _collected(LOG_ERROR) as lines:
        yield lines


@contextmanager
def native_warnings() -> Iterator[list[str]]:
    """Collect the warnings, too: some say what llama.cpp chose."""
    with _collected(LOG_WARN) as lines:
        yield lines


@contextmanager
def _collected(level: int) -> Iterator[list[str]]:
    lines: list[str] = []
    _log.collecting.append((level, lines))
    try:
        yield lines
    finally:
        _log.collecting.pop()


def explain(lines: list[str]) -> str:
    """The collected lines as one sentence, without llama.cpp's function-name prefixes."""
    told: list[str] = []
    for line in lines:
        head, separator, rest = line.partition(": ")
        text = rest if separator and " " not in head else line
        if text and text not in told:
            told.append(text)
    return "; ".join(told) or "llama.cpp gave no reason"


class Device:
    """One accelerator: its `ggml_backend_dev_t`, its description and memory in bytes."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(ctypes.c_void_p(handle), ctypes.byref(free), ctypes.byref(total))
        ggml.ggml_backend_dev_description.restype = ctypes.c_char_p
        text = ggml.ggml_backend_dev_description(ctypes.c_void_p(handle))
        self.description = (text or b"GPU").decode(errors="replace")
        self.free_bytes, self.total_bytes = free.value, total.value


def gpu_devices() -> list[Device]:
    """Accelerators that this build of llama.cpp can offload to."""
    if not native.llama_supports_gpu_offload():
        return []
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    handles = [ggml.ggml_backend_dev_get(ctypes.c_size_t(i)) for i in range(ggml.ggml_backend_dev_count())]
    kinds = (DEVICE_GPU, DEVICE_INTEGRATED_GPU)
    return [Device(h) for h in handles if ggml.ggml_backend_dev_type(ctypes.c_void_p(h)) in kinds]


def tensor_name(tensor: int) -> str:
    """Name of the `ggml_tensor` at an address."""
    ggml.ggml_get_name.restype = ctypes.c_char_p
    return (ggml.ggml_get_name(ctypes.c_void_p(tensor)) or b"").decode(errors="replace")
