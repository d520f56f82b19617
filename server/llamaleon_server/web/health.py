"""`GET /health`: answers as long as the event loop turns, whatever the engines do."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.shown import Health


async def health(request: Request) -> Response:
    services = services_of(request)
    loaded = [info.name for info in services.residents.ps() if info.state == "ready"]
    return json_response({"status": "ok", "loaded": loaded})


routes = [Described("/health", health, methods=["GET"], answer=Health)]
