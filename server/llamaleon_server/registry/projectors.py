"""Projectors (mmproj files): what makes a language model see. Found beside it, or named."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header, read_header
from llamaleon_server.errors import BadRequest

MARK = "mmproj"  # in the name of every projector that llama.cpp's converter writes
MODALITIES = ("clip.has_vision_encoder", "clip.vision.projector_type")


def check_projector(path: Path, model: Path) -> Path:
    """The whole path of a projector for the GGUF `model`.

    Raises: BadRequest naming `projector`: unreadable, no projector of images, or made for another model.
    """
    path = path.expanduser().absolute()
    try:
        projector, base = read_header(path), read_header(model)
    except ConvertError as error:
        raise BadRequest(f"{path} cannot serve as a projector: {error}", param="projector") from error
    if projector.architecture != "clip" or not any(key in projector for key in MODALITIES):
        raise BadRequest(f"{path} is no projector of images (mmproj).", param="projector")
    if not _fits(projector, base):
        raise BadRequest(f"{path} is a projector for another model than {model}.", param="projector")
    return path


def projector_beside(model: Path) -> Path | None:
    """The projector in the model's folder that fits it; of several the one whose name is most like its."""
    try:
        beside = [path for path in model.parent.iterdir() if _is_named(path) and path != model]
    except OSError:  # a folder that may be entered but not listed
        return None
    fitting = list(_fitting(beside, model))
    return max(fitting, key=lambda path: (_alike(path, model), path.name), default=None)


def _is_named(path: Path) -> bool:
    return MARK in path.name.lower() and path.suffix == ".gguf"


def _fitting(paths: list[Path], model: Path) -> Iterable[Path]:
    for path in sorted(paths):
        try:
            yield check_projector(path, model)
        except BadRequest:  # somebody else's
            continue


def _alike(path: Path, model: Path) -> int:
    """How much of their names is the same, the mark aside."""
    stem = path.stem.lower().replace(MARK, "").strip("-_.")
    pairs = zip(stem, model.stem.lower(), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _fits(projector: Header, base: Header) -> bool:
    """Whether its vectors have the width of the model's, as far as both say."""
    made, wanted = projector.integer("clip.vision.projection_dim"), base.model_value("embedding_length")
    return made is None or wanted is None or made == wanted
