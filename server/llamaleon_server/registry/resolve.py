"""From the `model` field to what runs: the meaning of every form of a name."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from rapidfuzz import process

from llamaleon_convert.manifest import Manifest, differences
from llamaleon_server.chat.ask import PLAIN, Preset
from llamaleon_server.errors import AdapterRefused, BadRequest, LlamaleonError, ModelNotFound, NotFound
from llamaleon_server.registry.adapters import AdapterStore
from llamaleon_server.registry.bases import BaseStore
from llamaleon_server.registry.made import LATEST, MadeStore
from llamaleon_server.registry.names import Part, parse_blend, split_base
from llamaleon_server.registry.presets import Presets, preset_over
from llamaleon_server.registry.records import (
    DEPLOYED,
    FAILED,
    REGISTERED,
    AdapterVersion,
    Base,
    MadeModel,
    Target,
)

NEAREST = 3
MAX_MODEL = 1 << 16  # characters; taking apart as many as a request may have would hold everybody up
SIMILAR_ENOUGH = 50.0  # of 100, rapidfuzz's weighted ratio


class Written(Struct, frozen=True, kw_only=True):
    """A name taken apart: a base with adapters, or a made model with `extra` ones on top of its own."""

    base: str
    made: MadeModel | None = None
    extra: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All adapters, a made model's own first."""
        return self.extra if self.made is None else self.made.adapters + self.extra


class Resolver:
    def __init__(self, bases: BaseStore, adapters: AdapterStore, made: MadeStore, presets: Presets) -> None:
        self._bases = bases
        self._adapters = adapters
        self._made = made
        self._presets = presets

    def resolve(self, model: str, lora: Sequence[dict[str, Any]] | None = None) -> Target:
        """What `model`, with llama-server's optional `lora` list, means.

        Raises:
            ModelNotFound: unknown, with the nearest names.
            BadRequest: a malformed `lora` item or weight, or a name that several bases have.
            AdapterRefused: the adapter was made for another base than the file now is.
            NotFound: the base model's file is gone.
        """
        written = self.written(model)
        base, uses = self._base(model, written), self._uses(model, written)
        if lora:
            if written.extra:
                raise BadRequest(
                    f"`{model}` already names adapters: give them in `model` or in `lora`, not in both.",
                    param="lora",
                )
            uses += [self._lora_item(base, index, item) for index, item in enumerate(lora)]
        if base.missing:
            raise NotFound(
                f"The file of the base model `{base.name}` is gone or unreadable: {base.path}. Put it back, "
                f"or remove the name with `llamaleon rm {base.name}`.",
                param="model",
            )
        for version, _ in uses:
            refuse_other_base(version.manifest, f"{version.adapter}@{version.version}", base)
        return Target(requested=model, base=base, adapters=_canonical(uses), preset=self.preset(written))

    def preset(self, written: Written) -> Preset:
        """The presets file's word on the very name, then the Modelfile's, then that of its patterns."""
        if written.made is not None:
            names = [written.made.name]
        else:
            names = [f"{written.base}+{part.adapter}" for part in written.extra[:1]] + [written.base]
        preset = PLAIN
        for name in names:
            preset = preset_over(preset, self._presets.exact(name).preset)
        if written.made is not None:
            preset = preset_over(preset, written.made.preset)
        return preset_over(preset, self._presets.patterns(*names).preset)

    def versions(self, model: str) -> list[AdapterVersion]:
        """The versions that a name without a blend stands for: all of NAME, or one by `@3` or `ft:`.

        Raises:
            ModelNotFound: there are none.
        """
        fine_tuned = self._adapters.by_ft_name(model)
        if fine_tuned is not None and fine_tuned.state in {REGISTERED, DEPLOYED}:
            return [fine_tuned]
        _refuse_endless(model)
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

        Raises: ModelNotFound, BadRequest if it is no adapter, AdapterRefused if it failed.
        """
        written = self.written(model)
        if written.made is not None and written.made.name != written.base:
            raise BadRequest(f"`{model}` is a made model, not an adapter.", param="model")
        if len(written.extra) != 1 or written.extra[0].weight != 1.0:
            what = "a blend" if written.extra else "a base model"
            raise BadRequest(f"`{model}` is {what}, not an adapter.", param="model")
        [(version, _)] = self._uses(model, Written(base=written.base, extra=written.extra))
        return version, written.extra[0].version

    def written_adapter(self, model: str) -> tuple[str | None, Part]:
        """Base and adapter as the name is written, whether or not they exist. Raises: ModelNotFound."""
        _refuse_endless(model)
        base, rest = split_base(model, self._bases.names())
        parts = parse_blend(rest)
        if parts is None or len(parts) != 1:
            raise self.unknown(model)
        return base, parts[0]

    def written(self, model: str) -> Written:
        """What the name says. Its base and adapters have names here; they may be gone or not servable.

        Raises: ModelNotFound, BadRequest if several bases have it, AdapterRefused if it failed.
        """
        _refuse_endless(model)
        for form in _forms(model):
            found = self._written(form)
            if found is not None:
                return found
        parts = parse_blend(split_base(model.removesuffix(LATEST), self._bases.names())[1])
        if parts is None:
            raise self.unknown(model)
        return Written(base=self._only_base(model, parts), extra=tuple(parts))

    def unknown(self, model: str) -> ModelNotFound:
        return ModelNotFound(model, self._nearest(model[:MAX_MODEL]))

    def _written(self, model: str) -> Written | None:
        """By a name that is recorded: of a fine-tuned model, a made one or a base."""
        fine_tuned = self._adapters.by_ft_name(model)
        if fine_tuned is not None and fine_tuned.state in {REGISTERED, DEPLOYED}:
            return Written(base=fine_tuned.base, extra=(Part(fine_tuned.adapter, fine_tuned.version),))
        if fine_tuned is not None and fine_tuned.state == FAILED:
            raise _failed(fine_tuned)
        name, rest = split_base(model, [*self._bases.names(), *self._made.names()])
        if name is None:
            return None
        parts = () if model == name else parse_blend(rest)
        if parts is None:
            return None
        made = self._made.get(name)
        return Written(base=name if made is None else made.base, made=made, extra=tuple(parts))

    def _uses(self, model: str, written: Written) -> list[tuple[AdapterVersion, float]]:
        uses = []
        for part in written.parts:
            version = self._find(written.base, part.adapter, part.version)
            if version is None and written.made is not None and part in written.made.adapters:
                raise NotFound(
                    f"`{written.made.name}` was made with the adapter {written.base}+{part}, which is not "
                    "served any more. Make it again, or add that adapter.",
                    param="model",
                )
            if version is None:
                raise self._unserved(model, [written.base], part)
            uses.append((version, part.weight))
        return uses

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
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not number or not abs(scale) <= sys.float_info.max:  # a whole number may be larger
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

    def lora_ids(self, base: str) -> list[AdapterVersion]:
        """What the numbers in a request's `lora` mean."""
        found = (self._adapters.latest(base, name) for name in self._deployed_names(base))
        return [version for version in found if version is not None]

    def _deployed_names(self, base: str) -> list[str]:
        """Adapters of a base in the order of their first registration: the indices of `lora`."""
        deployed = (v.adapter for v in self._adapters.servable(base) if v.state == DEPLOYED)
        return list(dict.fromkeys(deployed))

    def _base(self, model: str, written: Written) -> Base:
        base = self._bases.get(written.base)
        if base is None and written.made is not None:
            raise NotFound(
                f"`{written.made.name}` was made from the base model `{written.base}`, which is not "
                "registered any more. Add it again under that name.",
                param="model",
            )
        if base is None:  # removed since its name was listed, or a fine-tuned model's
            raise self.unknown(model)
        return base

    def _nearest(self, model: str) -> list[str]:
        names = [*self._bases.names(), *self._made.names()]
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


def _refuse_endless(model: str) -> None:
    if len(model) > MAX_MODEL:
        raise ModelNotFound(f"{model[:64]}…")


def _forms(model: str) -> list[str]:
    """The name, and how else it may be recorded: Ollama's clients write `:latest`, or leave it out."""
    head, plus, adapters = model.removesuffix(LATEST).partition("+")
    return list(
        dict.fromkeys([model, head.removesuffix(LATEST) + plus + adapters, head + LATEST + plus + adapters])
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
