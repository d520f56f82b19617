"""How the frozen base lies in memory, decided from sizes alone. No torch here: estimates ask too."""

from __future__ import annotations

from llamaleon_convert.header import Header

from ..errors import BadJob

# The base may take this share of the memory that is free; the rest is for activations and the adapter.
SHARE = 0.5


def resolve(wanted: str, header: Header | None, free_bytes: int, weight_bytes: int) -> str:
    """ "full", "nf4" or "gguf" for what the job asks, one of job.BASE_WEIGHTS.

    "auto" is full precision where that takes at most half of the memory that is free, and else the packed
    blocks of the GGUF: they are what is served, NF4 is not. A Hugging Face directory has no such blocks, so
    it is quantised to NF4 instead.

    Args:
        header: None for a Hugging Face directory.
        free_bytes: of the device that trains.
        weight_bytes: of one full-precision weight there.

    Raises:
        BadJob: packed blocks are asked for, and the base is no GGUF.
    """
    if wanted == "gguf" and header is None:
        raise BadJob(
            "`base_weights` is gguf, but `base` is a Hugging Face directory, which has no GGUF blocks; "
            "give the GGUF that is served, or use nf4 or full"
        )
    if wanted != "auto":
        return wanted
    if header is None:
        return "auto"  # the caller knows the size of a directory only once its configuration is read
    return "full" if full_bytes(header, weight_bytes) <= SHARE * free_bytes else "gguf"


def full_bytes(header: Header, weight_bytes: int) -> int:
    """Memory of the dequantised base."""
    return weight_bytes * sum(_elements(info.shape) for info in header.tensors.values())


def packed_bytes(header: Header) -> int:
    """Memory of the base as its file has it. On a CPU that is mapped, and shared with whoever serves it."""
    return sum(info.nbytes for info in header.tensors.values())


def _elements(shape: tuple[int, ...]) -> int:
    elements = 1
    for extent in shape:
        elements *= extent
    return elements
