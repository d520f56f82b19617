"""Which model a request without a `model` means: llama-server has one only."""

from __future__ import annotations

from starlette.requests import Request

from llamaleon_server.errors import BadRequest
from llamaleon_server.web.services import services_of

SHIPPED = "nano"


def model_or_only(request: Request, model: str | None) -> str:
    """The name given, else the base in memory, else the only one beside the model that ships.

    Raises: BadRequest naming `model` where that leaves a choice.
    """
    if model:
        return model
    services = services_of(request)
    loaded = [info.name for info in services.residents.ps() if info.state == "ready"]
    bases = [base.name for base in services.registry.bases() if not base.missing]
    own = [name for name in bases if name != SHIPPED]
    for names in (loaded, own or bases):
        if len(names) == 1:
            return names[0]
    raise BadRequest(f"`model` is required: one of {', '.join(bases)}.", param="model")
