"""Taking in an adapter while serving: a GGUF LoRA or a PEFT directory becomes a deployed version."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header, read_header
from llamaleon_convert.manifest import Manifest, differences, manifest_of
from llamaleon_server.errors import AdapterRefused, BadRequest, NotFound
from llamaleon_server.registry import blobs
from llamaleon_server.registry.adapters import GGUF, INCOMING
from llamaleon_server.registry.names import check_adapter_name
from llamaleon_server.registry.records import AdapterVersion, Base
from llamaleon_server.registry.registry import Registry

PEFT_CONFIG = "adapter_config.json"


Offer = Callable[[Base, AdapterVersion], Awaitable[None]]  # raises AdapterRefused, and has recorded it


class _Fit(Struct, frozen=True):
    """An adapter as a GGUF file that fits `base`."""

    base: Base
    gguf: Path
    manifest: Manifest


async def load_adapter(
    registry: Registry,
    name: str,
    path: Path,
    base: str | None = None,
    *,
    replace: bool = False,
    also: Callable[[AdapterVersion], None] | None = None,
    offer: Offer | None = None,
) -> AdapterVersion:
    """Copy the adapter at `path` in, convert it if it is a PEFT directory, and deploy it as `name`.

    Without `base`, it is the base that the adapter's manifest or configuration names, else the only
    registered one that fits. `also` runs in the transaction that records the version. `offer` tries it in its
    engine afterwards, if that runs: an adapter that only the engine can refuse is then recorded as failed.

    Raises:
        NotFound: nothing lies at `path`.
        BadRequest: `name` is no name, is taken (without `replace`), or several bases fit.
        AdapterRefused: it cannot be read or expressed, or fits no base; the message says why.
        StorageFull: nothing was recorded.
    """
    version = await asyncio.to_thread(_load, registry, name, path, base, replace=replace, also=also)
    if offer is not None:
        await offer(registry.base(version.base), version)
    return version


def _load(
    registry: Registry,
    name: str,
    path: Path,
    base: str | None,
    *,
    replace: bool,
    also: Callable[[AdapterVersion], None] | None,
) -> AdapterVersion:
    check_adapter_name(name, param="lora_name")
    path = path.expanduser().absolute()
    if not path.exists():
        raise NotFound(f"No adapter found at {path}.", param="lora_path")
    candidates = [registry.base(base)] if base is not None else registry.bases()
    candidates = [candidate for candidate in candidates if not candidate.missing]
    if not candidates:
        raise BadRequest(
            "There is no base model for the adapter to belong to: add one first.", param="lora_path"
        )
    incoming = registry.home / "adapters" / f"{INCOMING}{secrets.token_hex(8)}"
    incoming.mkdir()
    try:
        if path.is_dir():
            fit = _fit_peft(path, candidates, incoming)
        else:
            fit = _fit_gguf(path, candidates, incoming)
        if not replace and registry.deployed(fit.base.name, name) is not None:
            raise BadRequest(
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in "
                "place, set 'load_inplace' to True.",
                param="lora_name",
            )
        peft = path if path.is_dir() else None
        return registry.add_adapter(
            fit.base, name, fit.gguf, fit.manifest, peft_dir=peft, owned=True, also=also
        )
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _fit_gguf(path: Path, candidates: list[Base], incoming: Path) -> _Fit:
    from llamaleon_convert import check_lora

    # Everything is checked on our own copy: what is served is what was checked, whoever writes to `path`.
    copy = incoming / GGUF
    try:
        read_header(path)  # half a file is not worth copying
        with blobs.disk_errors(f"the adapter {path}"):
            shutil.copyfile(path, copy)
        manifest = manifest_of(copy)
    except ConvertError as error:
        raise AdapterRefused(str(error).replace(str(copy), str(path)), param="lora_path") from error
    made_for = manifest.base
    if made_for is not None:
        # The file says what it was made for: a base that merely has the same shapes is the wrong one.
        same = [base for base in candidates if not differences(made_for, base.fingerprint)]
        if not same:
            reasons = {b.name: "; ".join(differences(made_for, b.fingerprint)) for b in candidates}
            raise _refused(path, reasons)
        candidates = same
    fits, reasons = _try_each(
        candidates, lambda base: _Fit(base, copy, check_lora(copy, _base_header(base), manifest=manifest))
    )
    reasons = {name: reason.replace(str(copy), str(path)) for name, reason in reasons.items()}
    return _only(path, fits, reasons, manifest.base_name)


def _base_header(base: Base) -> Header:
    stat = base.path.stat()
    return _header(base.path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2)
def _header(path: Path, _size: int, _modified_ns: int) -> Header:
    """With a vocabulary of 150,000 reading it takes 40 ms, a third of a hot load, and a few megabytes."""
    return read_header(path)


def _fit_peft(path: Path, candidates: list[Base], incoming: Path) -> _Fit:
    from llamaleon_convert import convert

    config = _peft_config(path)
    named = str(config.get("base_model_name_or_path") or "").rstrip("/").rpartition("/")[2]

    def converted(base: Base) -> _Fit:
        out = incoming / f"{candidates.index(base)}.gguf"
        return _Fit(base, out, convert(path, base.path, out))

    fits, reasons = _try_each(candidates, converted)
    return _only(path, fits, reasons, named)


def _peft_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / PEFT_CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterRefused(
            f"{path} is no PEFT adapter: it has no {PEFT_CONFIG}. Give a GGUF LoRA file or a directory "
            "saved by peft's save_pretrained.",
            param="lora_path",
        ) from None
    except ValueError as error:
        raise AdapterRefused(f"{path / PEFT_CONFIG} is not JSON: {error}", param="lora_path") from error
    if not isinstance(config, dict):
        raise AdapterRefused(f"{path / PEFT_CONFIG} is not a JSON object.", param="lora_path")
    return config


def _try_each(candidates: list[Base], attempt: Callable[[Base], _Fit]) -> tuple[list[_Fit], dict[str, str]]:
    """What fits, and for every other base why not."""
    fits: list[_Fit] = []
    reasons: dict[str, str] = {}
    for base in candidates:
        try:
            fits.append(attempt(base))
        except ConvertError as error:
            reasons[base.name] = str(error)
    return fits, reasons


def _only(path: Path, fits: list[_Fit], reasons: dict[str, str], named: str | None) -> _Fit:
    if not fits:
        raise _refused(path, reasons)
    if len(fits) > 1 and named:
        fits = [fit for fit in fits if fit.base.name == named] or fits
    if len(fits) > 1:
        names = ", ".join(f"`{fit.base.name}`" for fit in fits)
        raise BadRequest(
            f"The adapter {path} fits several base models: name one of {names} as `base_model_name`.",
            param="base_model_name",
        )
    return fits[0]


def _refused(path: Path, reasons: dict[str, str]) -> AdapterRefused:
    if len(reasons) == 1:
        [(name, reason)] = reasons.items()
        return AdapterRefused(f"The adapter {path} does not belong to `{name}`: {reason}", param="lora_path")
    listed = " ".join(f"`{name}`: {reason}" for name, reason in reasons.items())
    return AdapterRefused(f"The adapter {path} fits none of the base models. {listed}", param="lora_path")
