"""Engines of other packages, chosen by `serve --engine NAME`.

A package names a function in the entry point group `llamaleon.engines`. It takes the settings and returns
what opens a channel to the engine of a base model: something that speaks `engine/protocol.py`, in a process
of its own or not.

    [project.entry-points."llamaleon.engines"]
    mine = "my_package:engine"
"""

from __future__ import annotations

from importlib.metadata import entry_points

from llamaleon_server.errors import BadRequest
from llamaleon_server.residents.slot import OpenChannel
from llamaleon_server.settings import Settings

GROUP = "llamaleon.engines"


def plugged_engine(settings: Settings) -> OpenChannel | None:
    """None where the settings name none: then it is ours.

    Raises:
        BadRequest: no installed package has an engine of that name, or it cannot be loaded.
    """
    if settings.engine_name is None:
        return None
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    entry = found.get(settings.engine_name)
    if entry is None:
        known = ", ".join(sorted(found)) or "none is installed"
        raise BadRequest(f"There is no engine `{settings.engine_name}`; known: {known}.", param="engine")
    try:
        made: OpenChannel = entry.load()(settings)
    except Exception as error:  # another package's code
        raise BadRequest(
            f"The engine `{entry.name}` ({entry.value}) cannot be loaded: {error}", param="engine"
        ) from error
    return made
