"""Bases, made models and adapters as lines of the listing of models."""

from __future__ import annotations

from collections.abc import Sequence

from llamaleon_server.registry.records import DEPLOYED, AdapterVersion, Base, MadeModel, ModelEntry


def base_entry(base: Base) -> ModelEntry:
    return ModelEntry(
        id=base.name,
        base=base.name,
        created=base.created,
        owned_by=base.found_in or "llamaleon",
        root=str(base.path),
        chat_template=base.has_template,
        missing=base.missing,
    )


def made_entry(made: MadeModel, base: Base) -> ModelEntry:
    return ModelEntry(
        id=made.name,
        kind="made",
        base=base.name,
        created=made.created,
        root=str(base.path),
        parent=base.name,
        chat_template=made.preset.template is not None or base.has_template,
        missing=base.missing,
    )


def adapter_entry(
    base: Base, versions: Sequence[AdapterVersion], serving: int | None, name: str | None = None
) -> ModelEntry:
    """`versions` oldest first. The entry describes the one numbered `serving`, else the newest deployed one,
    else the newest.
    """
    shown = next((v for v in versions if v.version == serving), None)
    shown = shown or next((v for v in reversed(versions) if v.state == DEPLOYED), versions[-1])
    return ModelEntry(
        id=name or shown.model,
        kind="adapter",
        base=base.name,
        created=shown.created,
        root=str(shown.path),
        parent=base.name,
        version=shown.version,
        versions=tuple(version.version for version in versions),
        ft_name=shown.ft_name,
        chat_template=base.has_template,
        missing=base.missing,
    )
