"""The quantisations that a repository offers, and which of them to take.

The rule: a quantisation that runs on the GPU alone comes before one that needs main memory, and that before
one that does not fit; among those of one kind Q4_K_M, which loses little and is quick; without it the
smallest of at least 4 bits; without those the largest. Less than 3 bits are taken only if nothing else fits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from llamaleon_convert.split import part_of
from llamaleon_server.errors import BadRequest, NotFound
from llamaleon_server.hub.download import RemoteFile
from llamaleon_server.hub.machine import Fit, Machine

PREFERRED = "Q4_K_M"
COARSE_BITS = 3  # fewer are a last resort
_QUANT = re.compile(
    r"(?:^|[-._/ ])"
    r"(?P<quant>(?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|FP?16|FP?32|(?:MX|NV)FP4(?:_MOE)?))$",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"mmproj|imatrix|(?:^|/)(?:mtp|eagle3|dflash|dspark)-", re.IGNORECASE)
_PROJECTORS = ("F16", "BF16", "Q8_0", "F32")  # best first: small anyway, and exact enough
_ORDER = {"gpu": 0, "ram": 1, "no": 2}


class RepoFile(Struct, frozen=True, kw_only=True):
    """A GGUF file of a repository or of a folder on this disk. `path` is from its root."""

    path: str
    size: int
    remote: RemoteFile | None = None  # None: it lies here


class Variant(Struct, frozen=True, kw_only=True):
    """One model of a repository in one quantisation: a file, or all parts of one."""

    quant: str  # upper case; empty where the name does not say
    files: tuple[RepoFile, ...]
    missing: str = ""  # a part of a split model that the repository does not have

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def path(self) -> str:
        return self.files[0].path

    @property
    def bits(self) -> int:
        """Of a weight, roughly; 0 if unknown."""
        found = re.search(r"\d+", self.quant)
        return int(found.group()) if found else 0

    def __str__(self) -> str:
        return f"{self.quant or self.path} ({self.bytes / 1e9:.1f} GB)"


class Choice(Struct, frozen=True, kw_only=True):
    variant: Variant
    fit: Fit
    why: str  # a sentence


def quant_of(path: str) -> str:
    """From a file's name, or from its folder's; empty if neither says.

    >>> quant_of("UD-Q4_K_XL/glm-UD-Q4_K_XL-00001-of-00005.gguf"), quant_of("tiny.f16.gguf")
    ('UD-Q4_K_XL', 'F16')
    """
    part = part_of(path)
    stem = part.prefix if part is not None else re.sub(r"\.gguf$", "", path, flags=re.IGNORECASE)
    for text in (stem, stem.rpartition("/")[0]):
        if found := _QUANT.search(text):
            return found["quant"].upper().replace("FP16", "F16").replace("FP32", "F32")
    return ""


def variants_of(files: Iterable[RepoFile]) -> list[Variant]:
    """The models among the files of a repository, smallest first."""
    groups: list[tuple[list[RepoFile], str]] = []
    parts: dict[tuple[str, int], dict[int, RepoFile]] = {}
    for file in files:
        if not is_model(file.path):
            continue
        part = part_of(file.path)
        if part is None:
            groups.append(([file], ""))
        else:
            parts.setdefault((part.prefix, part.count), {})[part.number] = file
    for (prefix, count), found in parts.items():
        lacking = [number for number in range(1, count + 1) if number not in found]
        missing = f"{prefix}-{lacking[0]:05d}-of-{count:05d}.gguf" if lacking else ""
        groups.append(([found[number] for number in sorted(found)], missing))
    made = [Variant(quant=quant_of(own[0].path), files=tuple(own), missing=gap) for own, gap in groups]
    return sorted(made, key=lambda variant: (variant.bytes, variant.path))


def is_model(path: str) -> bool:
    return path.lower().endswith(".gguf") and _NO_MODEL.search(path) is None


def choose(variants: Sequence[Variant], machine: Machine) -> Choice:
    """By the rule above. Raises: BadRequest listing all if none fits; NotFound if none is whole."""
    whole = [variant for variant in variants if not variant.missing] or [chosen(variants[0], machine).variant]
    best = min(whole, key=lambda variant: _rank(variant, machine))
    fit = machine.fit(best.bytes)
    if fit == "no":
        raise BadRequest(
            f"Nothing here fits this machine ({machine}): {listed(variants)}. Name one to fetch it all the "
            f"same, as in OWNER/REPO:{best.quant or PREFERRED}.",
            param="model",
        )
    where = "on the GPU" if fit == "gpu" else "in memory"
    larger = [
        variant for variant in variants if variant.bytes > best.bytes and machine.fit(variant.bytes) == fit
    ]
    why = f"{best} fits {where} ({machine})"
    if best.quant == PREFERRED and larger:
        why += f" and is quick; larger ones would fit too: {listed(larger)}"
    return Choice(variant=best, fit=fit, why=why + ".")


def named(variants: Sequence[Variant], quant: str, machine: Machine) -> Choice:
    """The one that is asked for, whether or not it fits. Raises: NotFound, BadRequest if it is not one."""
    asked = quant.upper()
    found = [one for one in variants if one.quant == asked] or [
        one for one in variants if one.quant.endswith(f"-{asked}")
    ]
    if not found:
        raise NotFound(f"There is no {quant} among {listed(variants)}.", param="model")
    if len(found) > 1:
        paths = ", ".join(variant.path for variant in found)
        raise BadRequest(
            f"Several files are {quant}: name one of {paths}, as OWNER/REPO/FILE.", param="model"
        )
    return chosen(found[0], machine)


def chosen(variant: Variant, machine: Machine) -> Choice:
    """A variant that was asked for by name. Raises: NotFound if a part of it does not exist."""
    if variant.missing:
        raise NotFound(f"The repository lacks {variant.missing}, a part of a split model.", param="model")
    fit = machine.fit(variant.bytes)
    beware = f", which may not fit this machine ({machine})" if fit == "no" else ""
    return Choice(variant=variant, fit=fit, why=f"{variant} was asked for{beware}.")


def name_within(repo: str, variant: Variant, all_of_it: Iterable[Variant]) -> str:
    """By which a model is served: OWNER/REPO:QUANT, or with the file where that would not say which."""
    alike = [one for one in all_of_it if one.quant == variant.quant]
    return f"{repo}:{variant.quant}" if variant.quant and len(alike) == 1 else f"{repo}/{variant.path}"


def projector_of(files: Iterable[RepoFile], variant: Variant) -> RepoFile | None:
    """What a vision model needs beside it: an mmproj file of the same folder, or of one above."""
    folder = variant.path.rpartition("/")[0]
    beside = [
        file
        for file in files
        if "mmproj" in file.path.lower()
        and file.path.lower().endswith(".gguf")
        and (f"{folder}/").startswith(f"{file.path.rpartition('/')[0]}/".lstrip("/"))
    ]
    return min(beside, key=lambda file: _projector_rank(file.path), default=None)


def _projector_rank(path: str) -> tuple[int, str]:
    quant = next(
        (name for name in _PROJECTORS if re.search(rf"(?<![A-Z]){name}(?![A-Z\d])", path.upper())), ""
    )
    return (_PROJECTORS.index(quant) if quant else len(_PROJECTORS), path)


def _rank(variant: Variant, machine: Machine) -> tuple[object, ...]:
    bits = variant.bits
    coarse = 0 < bits < COARSE_BITS
    fit = machine.fit(variant.bytes)
    finer = bits >= 4
    return (
        fit == "no",
        coarse,
        _ORDER[fit],
        variant.quant != PREFERRED,
        not finer,
        variant.bytes if finer else -variant.bytes,
        variant.path,
    )


def listed(variants: Sequence[Variant]) -> str:
    return ", ".join(str(variant) for variant in variants) or "nothing"
