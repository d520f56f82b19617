"""What the routes work with. `create_app` makes it; routes find it at `request.app.state.services`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.requests import Request

from llamaleon_server.batches.service import Batches
from llamaleon_server.engine.protocol import Delta, GenerateRequest
from llamaleon_server.hub.discovery import Discovery
from llamaleon_server.jobs.service import Jobs
from llamaleon_server.registry.records import Target
from llamaleon_server.registry.registry import Registry
from llamaleon_server.registry.watch import Watcher
from llamaleon_server.residents.residents import Residents
from llamaleon_server.settings import Settings
from llamaleon_server.web.metrics import Metrics
from llamaleon_server.web.responses_running import Background


@dataclass(frozen=True)
class Services:
    settings: Settings
    registry: Registry
    residents: Residents
    jobs: Jobs
    watcher: Watcher
    metrics: Metrics
    responses: Background
    batches: Batches
    discovery: Discovery

    def generate(self, target: Target, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Run one request, measured. Closing the generator cancels."""
        return self.metrics.generate(self.residents, target, request)


def services_of(request: Request) -> Services:
    """`request.app` is our application also where it is mounted in another one."""
    services: Services = request.app.state.services
    return services
