"""`create_app`: the only place that knows every part."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware

import llamaleon_server
from llamaleon_server.errors import Conflict, ModelNotFound, NotFound
from llamaleon_server.jobs.service import Jobs
from llamaleon_server.registry.registry import Registry
from llamaleon_server.registry.watch import Watcher
from llamaleon_server.residents.residents import Residents
from llamaleon_server.residents.slot import OpenChannel
from llamaleon_server.settings import Settings
from llamaleon_server.web import (
    adapters,
    admin,
    chat,
    completions,
    files,
    fine_tuning,
    health,
    models,
    ps,
    scrape,
)
from llamaleon_server.web.errors import ERROR_HANDLERS
from llamaleon_server.web.metrics import Metrics
from llamaleon_server.web.middleware import Measure, RequestId, StartFirst
from llamaleon_server.web.services import Services

log = logging.getLogger(__name__)

NANO = Path(llamaleon_server.__file__).parent / "models" / "nano.gguf"

ROUTES = [
    *health.routes,
    *scrape.routes,
    *models.routes,
    *chat.routes,
    *completions.routes,
    *files.routes,
    *fine_tuning.routes,
    *adapters.routes,
    *admin.routes,
    *ps.routes,
]


class Lifecycle:
    """Starts and stops what runs beside the requests. Everything may be called any number of times."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._state = "new"

    async def start(self) -> None:
        """Raises: Conflict if another server runs on this home."""
        if self._state == "started":
            return
        async with self._lock:
            if self._state == "new":
                await self._services.jobs.start()
                self._watching = asyncio.create_task(self._services.watcher.run())
                self._state = "started"

    async def stop(self) -> None:
        """Stop watching, jobs and engines: running requests end with an error, trainers go on."""
        async with self._lock:
            if self._state == "started":
                assert self._watching is not None
                self._watching.cancel()
                await asyncio.wait([self._watching])
                # Before the engines: a job must not take their end for its own failure.
                await self._services.jobs.close()
                await self._services.residents.close()
            if self._state != "closed":
                self._state = "stopped"

    async def close(self) -> None:
        """`stop`, and close the database: no request is answered any more."""
        await self.stop()
        if self._state != "closed":
            self._state = "closed"
            self._services.registry.close()


def create_app(settings: Settings, *, open_channel: OpenChannel | None = None) -> Starlette:
    """The whole server as one ASGI application.

    It can be mounted under a path of another one: `Mount("/llm", app=create_app(settings))`. Hosts do not run
    the lifespan of what they mount: the services then start with the first request, and the host awaits
    `app.state.lifecycle.close()` when it ends (without it, engines still end with this process, because their
    input closes).

    `open_channel` replaces the engine processes, e.g. by `testing.FakeEngine`.

    Raises:
        BadRequest, Conflict, ModelNotFound: a model of `settings.models` cannot be registered.
    """
    registry = Registry.open(settings.home)
    _register(registry, settings)
    residents = Residents(
        settings,
        open_channel=open_channel,
        records=registry,
    )
    jobs = Jobs(settings, registry, residents)
    watcher = Watcher(registry, settings.watch, residents.offer)
    services = Services(settings, registry, residents, jobs, watcher, Metrics())
    lifecycle = Lifecycle(services)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await lifecycle.start()
        try:
            yield
        finally:
            await lifecycle.close()

    app = Starlette(
        routes=ROUTES,
        exception_handlers=ERROR_HANDLERS,
        middleware=[
            Middleware(RequestId),
            Middleware(Measure, answered=services.metrics.answered, routes=ROUTES),
            Middleware(StartFirst, start=lifecycle.start),
        ],
        lifespan=lifespan,
    )
    app.state.services = services
    app.state.lifecycle = lifecycle
    return app


def _register(registry: Registry, settings: Settings) -> None:
    if NANO.exists():
        try:
            registry.add_base(NANO, "nano")
        except Conflict as error:  # the user has a model of that name: theirs it stays
            log.warning("the model that ships is not registered: %s", error)
    for model in settings.models:
        path = Path(model).expanduser()
        if path.is_file() or path.suffix == ".gguf":
            registry.add_base(path)
        else:
            _known(registry, model)
    for base in registry.bases():
        if not base.missing:
            admin.note_fallback(base)


def _known(registry: Registry, name: str) -> None:
    try:
        registry.base(name)
    except ModelNotFound as error:
        hint = f" Nearest names: {', '.join(error.nearest)}." if error.nearest else ""
        raise NotFound(
            f"`{name}` is neither a GGUF file nor a registered model.{hint}", param="model"
        ) from error
