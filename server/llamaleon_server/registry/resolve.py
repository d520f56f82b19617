"""From the `model` field to what runs: the meaning of every form of a name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rapidfuzz import process

from llamaleon_convert.manifest import Manifest, differences
from llamaleon_server.errors import AdapterRefused, BadRequest, LlamaleonError, ModelNotFound, NotFound
from llamaleon_server.registry.adapters import AdapterStore
from llamaleon_server.registry.bases import BaseStore
from llamaleon_server.registry.names import Part, parse_blend, split_base
from llamaleon_server.registry.records import DEPLOYED, FAILED, REGISTERED, AdapterVersion, Base, Target

NEAREST = 3
SIMILAR_ENOUGH = 50.0  # of 100, rapidfuzz's weighted ratio


class Resolver:
    def __init__(self, bases: BaseStore, adapters: AdapterStore) -> None:
        self._bases = bases
        self._adapters = adapters

    def resolve(self, model: str, lora: Sequence[dict[str, Any]] | None = None) -> Target:
        """What `model`, with llama-server's optional `lora` list, means.

        Raises:
            ModelNotFound: unknown, with the nearest names.
            BadRequest: a malformed `lora` item or weight, or a name that several bases have.
            AdapterRefused: the adapter was made for another base than the file now is.
            NotFound: the base model's file is gone.
        """
        base, uses = self._meaning(model)
        if lora:
            if uses:
                raise BadRequest(
                    f"`{model}` already names adapters: give them in `model` or in `lora`, not in both.",
                    param="lora",
                )
            uses = [self._lora_item(base, index, item) for index, item in enumerate(lora)]
        if base.missing:
            raise NotFound(
                f"The file of the base model `{base.name}` is gone or unreadable: {base.path}. Put it back, "
                f"or remove the name with `llamaleon rm {base.name}`.",
                param="model",
            )
        for version, _ in uses:
            refuse_other_base(version.manifest, f"{version.adapter}@{version.version}", base)
        return Target(requested=model, base=base, adapters=_canonical(uses))

    def versions(self, model: str) -> list[AdapterVersion]:
        """The versions that a name without a blend stands for: all of NAME, or one by `@3` or `ft:`.

        Raises:
            ModelNotFound: there are none.
        """
        fine_tuned = self._adapters.by_ft_name(model)
        if fine_tuned is not None and fine_tuned.state in {REGISTERED, DEPLOYED}:
            return [fine_tuned]
        base_name, rest = split_base(model, self._bases.names())
        parts = parse_blend(rest)
        found: list[AdapterVersion] = []
        if parts is not None and len(parts) == 1:
            part = parts[0]
            found = [
                version
                for version in self._adapters.servable(base_name, part.adapter)
                if part.version in {None, version.version}
            ]
        if not found:
            raise self.unknown(model)
        if len({version.base for version in found}) > 1:
            raise self._ambiguous(model, sorted({version.base for version in found}))
        return found

    def adapter(self, model: str) -> tuple[AdapterVersion, int | None]:
        """The one adapter that a name stands for, and its version if the name says which.

        Raises: ModelNotFound, BadRequest if it is a base or a blend, AdapterRefused if it failed.
        """
        _, uses = self._meaning(model)
        if len(uses) != 1 or uses[0][1] != 1.0:
            what = "a blend" if uses else "a base model"
            raise BadRequest(f"`{model}` is {what}, not an adapter.", param="model")
        version = uses[0][0]
        named = version.ft_name == model or self.written(model)[1].version is not None
        return version, version.version if named else None

    def written(self, model: str) -> tuple[str | None, Part]:
        """Base and adapter as the name is written, whether or not they exist. Raises: ModelNotFound."""
        base, rest = split_base(model, self._bases.names())
        parts = parse_blend(rest)
        if parts is None or len(parts) != 1:
            raise self.unknown(model)
        return base, parts[0]

    def unknown(self, model: str) -> ModelNotFound:
        return ModelNotFound(model, self._nearest(model))

    def _meaning(self, model: str) -> tuple[Base, list[tuple[AdapterVersion, float]]]:
        fine_tuned = self._adapters.by_ft_name(model)
        if fine_tuned is not None and fine_tuned.state in {REGISTERED, DEPLOYED}:
            base = self._bases.get(fine_tuned.base)
            if base is None:
                raise self.unknown(model)
            return base, [(fine_tuned, 1.0)]
        if fine_tuned is not None and fine_tuned.state == FAILED:
            raise _failed(fine_tuned)
        base_name, rest = split_base(model, self._bases.names())
        if base_name is not None and model == base_name:
            return self._base(base_name), []
        parts = parse_blend(rest)
        if parts is None:
            raise self.unknown(model)
        if base_name is None:
            base_name = self._only_base(model, parts)
        uses = []
        for part in parts:
            version = self._find(base_name, part.adapter, part.version)
            if version is None:
                raise self._unserved(model, [base_name], part)
            uses.append((version, part.weight))
        return self._base(base_name), uses

    def _find(self, base: str, name: str, version: int | None) -> AdapterVersion | None:
        if version is None:
            return self._adapters.latest(base, name)
        found = self._adapters.version(name, version)
        usable = found is not None and found.base == base and found.state in {REGISTERED, DEPLOYED}
        return found if usable else None

    def _only_base(self, model: str, parts: list[Part]) -> str:
        fitting = [
            name
            for name in self._bases.names()
            if all(self._find(name, part.adapter, part.version) is not None for part in parts)
        ]
        if not fitting:
            raise self._unserved(model, self._bases.names(), parts[0])
        if len(fitting) > 1:
            raise self._ambiguous(model, fitting)
        return fitting[0]

    def _unserved(self, model: str, bases: Iterable[str], part: Part) -> LlamaleonError:
        """Why a name does not answer: its adapter failed, or there is none."""
        for base in bases:
            failed = self._adapters.failed(base, part.adapter, part.version)
            if failed is not None:
                return _failed(failed)
        return self.unknown(model)

    def _lora_item(self, base: Base, index: int, item: dict[str, Any]) -> tuple[AdapterVersion, float]:
        where = f"lora[{index}]"
        if not isinstance(item, dict) or "id" not in item:
            raise BadRequest(f"`{where}` needs an `id`: an adapter's name or its index.", param=where)
        scale = item.get("scale", 1.0)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
            raise BadRequest(f"`{where}.scale` must be a finite number.", param=f"{where}.scale")
        version = self._lora_id(base, item["id"])
        if version is None:
            raise BadRequest(
                f"`{where}.id` {item['id']!r} is no adapter of `{base.name}`."
                + _hint(self._deployed_names(base.name)),
                param=f"{where}.id",
            )
        return version, float(scale)

    def _lora_id(self, base: Base, given: Any) -> AdapterVersion | None:
        if isinstance(given, bool):
            return None
        if isinstance(given, int):
            names = self._deployed_names(base.name)
            return self._adapters.latest(base.name, names[given]) if 0 <= given < len(names) else None
        if not isinstance(given, str):
            return None
        fine_tuned = self._adapters.by_ft_name(given)
        if fine_tuned is not None:
            usable = fine_tuned.base == base.name and fine_tuned.state in {REGISTERED, DEPLOYED}
            return fine_tuned if usable else None
        parts = parse_blend(given.removeprefix(f"{base.name}+"))
        if parts is None or len(parts) != 1 or parts[0].weight != 1.0:
            return None
        return self._find(base.name, parts[0].adapter, parts[0].version)

    def _deployed_names(self, base: str) -> list[str]:
        """Adapters of a base in the order of their first registration: the indices of `lora`."""
        deployed = (v.adapter for v in self._adapters.servable(base) if v.state == DEPLOYED)
        return list(dict.fromkeys(deployed))

    def _base(self, name: str) -> Base:
        base = self._bases.get(name)
        if base is None:  # removed since its name was listed
            raise self.unknown(name)
        return base

    def _nearest(self, model: str) -> list[str]:
        names = list(self._bases.names())
        for version in self._adapters.servable():
            if version.state == DEPLOYED:
                names += [version.model, version.adapter]
                names += [version.ft_name] if version.ft_name else []
        found = process.extract(model, list(dict.fromkeys(names)), limit=NEAREST, score_cutoff=SIMILAR_ENOUGH)
        return [name for name, _, _ in found]

    @staticmethod
    def _ambiguous(model: str, bases: Sequence[str]) -> BadRequest:
        choices = ", ".join(f"`{base}+{model}`" for base in bases)
        return BadRequest(f"Several base models have `{model}`: name one of {choices}.", param="model")


def refuse_other_base(manifest: Manifest, adapter: str, base: Base) -> None:
    """Raises: AdapterRefused naming the fields in which the base differs from the one it was made for."""
    if manifest.base is None or manifest.base == base.fingerprint:
        return
    fields = "; ".join(differences(manifest.base, base.fingerprint))
    if fields:
        raise AdapterRefused(
            f"The adapter `{adapter}` was made for another base than `{base.name}` ({base.path}): {fields}.",
            param="model",
        )


def _failed(version: AdapterVersion) -> AdapterRefused:
    return AdapterRefused(f"`{version.full_name}` cannot be served: {version.reason}", param="model")


def _canonical(uses: list[tuple[AdapterVersion, float]]) -> tuple[tuple[AdapterVersion, float], ...]:
    """One entry per content, by key, without those of weight zero: equal blends get equal prefix caches."""
    weights: dict[str, float] = {}
    versions: dict[str, AdapterVersion] = {}
    for version, weight in uses:
        versions.setdefault(version.key, version)
        weights[version.key] = weights.get(version.key, 0.0) + weight
    return tuple((versions[key], weights[key]) for key in sorted(weights) if weights[key] != 0.0)


def _hint(names: Sequence[str]) -> str:
    return f" It has: {', '.join(names)}." if names else " It has none."
