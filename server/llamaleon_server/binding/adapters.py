"""LoRA adapters of one model, each loaded by llama.cpp itself: for those that cannot share a pass."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native

from llamaleon_server.binding import adapter_file, library
from llamaleon_server.binding.adapter_file import AdapterFile
from llamaleon_server.binding.bank import NULL_RANKS, write_zeros
from llamaleon_server.binding.errors import AdapterError
from llamaleon_server.binding.model import Model
from llamaleon_server.binding.probe import lora_tensors


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter. `handle` is what a context takes."""

    handle: Any
    rank: int
    tensors: int
    bytes: int


class AdapterLoader:
    """Loads adapters for one model and remembers which of its tensors its graph adapts."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._adaptable: set[str] = set()

    def load(self, path: Path) -> Adapter:
        """Check, load and probe an adapter file. Raises: AdapterError naming the tensor or key."""
        file = adapter_file.check(path, self._model.header)
        handle = self._load(path)
        try:
            if not file.targets <= self._adaptable:
                self._probe(handle)
            self._refuse_ignored(file)
        except AdapterError:
            self.free(handle)
            raise
        return Adapter(handle, file.rank, 2 * len(file.targets), file.bytes)

    def require_used(self, file: AdapterFile) -> None:
        """Probe without loading: raises AdapterError if the graph ignores a target of a checked file."""
        shapes = self._model.header.tensors
        # A vector is never multiplied: the graph need not be asked.
        unknown = frozenset(t for t in file.targets - self._adaptable if len(shapes[t].shape) == 2)
        if unknown:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "zeros.gguf"
                write_zeros(path, self._model, unknown, "F16", NULL_RANKS)
                handle = self._load(path)
            try:
                self._probe(handle)
            finally:
                self.free(handle)
        self._refuse_ignored(file)

    def _load(self, path: Path) -> Any:
        with library.native_errors() as lines:
            handle = native.llama_adapter_lora_init(self._model.handle, str(path).encode())
        if not handle:
            raise AdapterError(f"{path}: llama.cpp cannot load this adapter: {library.explain(lines)}.")
        return handle

    def _probe(self, handle: Any) -> None:
        used = lora_tensors(self._model, handle)
        self._adaptable |= {name.removesuffix(".lora_a") for name in used if name.endswith(".lora_a")}

    def _refuse_ignored(self, file: AdapterFile) -> None:
        if ignored := sorted(file.targets - self._adaptable):
            more = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
            raise AdapterError(
                f"{file.path}: tensor '{ignored[0]}.lora_a'{more} would be ignored: the graph of "
                f"{self._model.header.architecture!r} never applies a LoRA to {ignored[0]!r}. "
                "Train without that module."
            )

    def free(self, handle: Any) -> None:
        """Free an adapter that no context has active."""
        native.llama_adapter_lora_free(handle)
