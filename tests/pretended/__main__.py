"""See the package. The device's memory is in bytes, or with a suffix as in 8G (of 10^9 bytes).

The last line that is printed says what was taken of it.
"""

from __future__ import annotations

import json
import runpy
import sys

from . import library

library.load()  # before torch

from . import cuda, memory, tensors  # noqa: E402  # they import torch


def main() -> None:
    size, module = sys.argv[1:3]
    sys.argv[:] = [module, *sys.argv[3:]]
    capacity = int(float(size[:-1]) * 1e9) if size.endswith("G") else int(size)
    card = memory.Memory(capacity)
    cuda.pretend(card)
    try:
        with tensors.Dispatch():  # type: ignore[no-untyped-call]  # torch's own
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        print("pretended card:", json.dumps(card.taken()), flush=True)


if __name__ == "__main__":
    main()
