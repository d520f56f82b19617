"""What was fetched or found, under its name in the registry."""

from __future__ import annotations

import asyncio
import contextlib
import functools

import msgspec

from llamaleon_server.chat.ask import PLAIN
from llamaleon_server.errors import BadRequest, Conflict
from llamaleon_server.hub.ollama import Store, StoredModel
from llamaleon_server.registry import models
from llamaleon_server.registry.registry import Registry


def own_store(registry: Registry) -> Store:
    """Where `pull` puts what comes from an Ollama registry."""
    return Store(registry.home / "models" / "ollama")


async def record(registry: Registry, model: StoredModel, found_in: str | None = None) -> tuple[str, ...]:
    """From now on the name of `model` answers. Returns what of it is left out, and why, in sentences.

    Raises:
        BadRequest, AdapterRefused: the file cannot be served, or an adapter that comes with it.
        Conflict: the name belongs to something else.
    """
    notes = list(model.notes)
    add = functools.partial(registry.add_base, model.path, model.name, found_in=found_in, replace=True)
    try:
        await asyncio.to_thread(add, projector=model.projector)
    except BadRequest as error:
        if error.param != "projector":
            raise
        notes.append(f"its projector is left out: {error.message}")  # text is better than nothing
        await asyncio.to_thread(add)
    if model.modelfile is None:
        return tuple(notes)
    old = registry.made(model.name)
    if old is not None and old.base == model.name:  # what an earlier version of it brought
        registry.remove_made(old.name)
    try:
        await models.make(registry, model.name, model.modelfile, own=True)
        return tuple(notes)
    except BadRequest as error:
        if error.param != "template":
            raise
        notes.append(f"its template is left out: {error.message}")
    plain = msgspec.structs.replace(model.modelfile, template=None)
    await models.make(registry, model.name, plain, own=True)
    return tuple(notes)


def release(registry: Registry, name: str) -> None:
    """Free the disk of a base that was just forgotten, as far as `pull` put its files into this home.

    What lies in the folders of other programs stays, that of the hub included. Reads and removes files: call
    it in a thread.
    """
    if name not in registry.base_names():
        own_store(registry).forget(name)


def alias(registry: Registry, asked: str, model: str) -> None:
    """Let the name as it was asked for answer too: what was pulled without a quantisation has one now.

    Not a link, and not a name that somebody gave to more than a base.
    """
    if "://" in asked or asked.removesuffix(":latest") == model:
        return
    known = registry.made(asked)
    if known is not None and (known.preset != PLAIN or known.adapters):
        return
    with contextlib.suppress(BadRequest, Conflict):  # no name of ours, or another model's: the long one stays
        models.copy(registry, model, asked)
