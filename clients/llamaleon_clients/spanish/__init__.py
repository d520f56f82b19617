"""Every sentence of the command line in Spanish, a file per area. A test finds missing and unused ones."""

from __future__ import annotations

from llamaleon_clients.spanish import (
    adapters,
    data,
    demo,
    evaluation,
    jobfiles,
    models,
    residents,
    server,
    sharing,
    talk,
    training,
    tune,
    versions,
)

AREAS = (
    adapters,
    data,
    demo,
    evaluation,
    jobfiles,
    models,
    residents,
    server,
    sharing,
    talk,
    training,
    tune,
    versions,
)
SENTENCES: dict[str, str] = {
    english: spanish for area in AREAS for english, spanish in area.SENTENCES.items()
}
