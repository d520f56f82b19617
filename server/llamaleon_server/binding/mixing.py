"""Whether adapters are mixed in this process: found out while the model loads."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import llamaleon_server
from llamaleon_server.binding.cores import roam
from llamaleon_server.binding.library import Device
from llamaleon_server.binding.options import Split

if TYPE_CHECKING:
    from llamaleon_server.binding.mixer import Mixer

WHOLE_LAYERS = (None, "none", "layer")  # ways to split a model that leave tensors whole
TEST_MODEL = Path(llamaleon_server.__file__).parent / "models" / "nano.gguf"

Found = tuple["Mixer | None", str | None]


class Mixing:
    """The self-test, running in a thread: it takes as long as loading a small model."""

    def __init__(self, found: Future[Found]) -> None:
        self._found = found

    @classmethod
    def start(cls, wanted: bool, devices: list[Device], split: Split) -> Mixing:
        """`devices` are the accelerators that the model may be offloaded to, `split` among them."""
        pool = ThreadPoolExecutor(1, "self-test", initializer=roam)
        found = pool.submit(_find_out, wanted, [device.handle for device in devices], split)
        pool.shutdown(wait=False)
        return cls(found)

    def mixer(self) -> Mixer | None:
        """What a context needs so that its passes can be mixed; None if they cannot."""
        return self._found.result()[0]

    @property
    def off(self) -> str | None:
        """Why adapters cannot be mixed here; None if they can."""
        return self._found.result()[1]


def _find_out(wanted: bool, devices: list[int], split: Split) -> Found:
    if not wanted:
        return None, "it is turned off (mixing)"
    if len(devices) > 1 and split.mode not in WHOLE_LAYERS:
        return None, f"every tensor is split over several GPUs (split_mode {split.mode})"
    try:
        # The compiled callback; a machine without numba serves all the same.
        from llamaleon_server.binding.mixer import Mixer
        from llamaleon_server.binding.selftest import why_not
    except ImportError as error:
        return None, f"numba cannot be imported ({error}): pip install 'llamaleon[engine]'"
    reason = why_not(TEST_MODEL, devices, split)
    return (Mixer(devices), None) if reason is None else (None, reason)
