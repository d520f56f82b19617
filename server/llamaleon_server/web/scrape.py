"""`GET /metrics`, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.web.described import Described
from llamaleon_server.web.services import services_of


async def metrics(request: Request) -> Response:
    services = services_of(request)
    text = services.metrics.text(await services.residents.vitals())
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


routes = [Described("/metrics", metrics, methods=["GET"], media=CONTENT_TYPE_LATEST)]
