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
from llamaleon_server.batches.service import Batches
from llamaleon_server.errors import BadRequest, Conflict, ModelNotFound, NotFound
from llamaleon_server.hub.discovery import Discovery
from llamaleon_server.jobs.service import Jobs
from llamaleon_server.registry.registry import Registry
from llamaleon_server.registry.watch import Watcher
from llamaleon_server.residents.plugged import plugged_engine
from llamaleon_server.residents.residents import Residents
from llamaleon_server.residents.slot import OpenChannel
from llamaleon_server.settings import Settings
from llamaleon_server.web import (
    adapters,
    admin,
    anthropic,
    batches,
    chat,
    completions,
    conversations,
    datasets,
    embeddings,
    evaluations,
    files,
    fine_tuning,
    health,
    llama_server,
    made,
    models,
    ollama,
    openapi,
    ps,
    pull,
    rerank,
    responses,
    scrape,
    sharing,
    stored,
)
from llamaleon_server.web.errors import ERROR_HANDLERS
from llamaleon_server.web.guarded import browser_guards, guarded
from llamaleon_server.web.inside import Inside
from llamaleon_server.web.metrics import Metrics
from llamaleon_server.web.middleware import Measure, RequestId, StartFirst, TakeAll
from llamaleon_server.web.responses_running import Background
from llamaleon_server.web.services import Services
from llamaleon_server.webhooks import Webhooks

log = logging.getLogger(__name__)

NANO = Path(llamaleon_server.__file__).parent / "models" / "nano.gguf"

ROUTES = [
    *health.routes,
    *scrape.routes,
    *models.routes,
    *chat.routes,
    *completions.routes,
    *embeddings.routes,
    *rerank.routes,
    *stored.routes,
    *responses.routes,
    *conversations.routes,
    *batches.routes,
    *anthropic.routes,
    *ollama.routes,
    *files.routes,
    *fine_tuning.routes,
    *evaluations.routes,
    *datasets.routes,
    *adapters.routes,
    *admin.routes,
    *made.routes,
    *ps.routes,
    *pull.routes,
    *sharing.routes,
    *llama_server.routes,
    *openapi.routes,
]


class Lifecycle:
    """Starts and stops what runs beside the requests. Everything may be called any number of times."""

    def __init__(self, services: Services, webhooks: Webhooks) -> None:
        self._services = services
        self._webhooks = webhooks
        self._lock = asyncio.Lock()
        self._watching: list[asyncio.Task[None]] = []
        self._state = "new"

    async def start(self) -> None:
        """Raises: Conflict if another server runs on this home."""
        if self._state == "started":
            return
        async with self._lock:
            if self._state == "new":
                await self._services.jobs.start()
                self._webhooks.start()
                await self._services.responses.start()
                self._services.batches.start()
                looking = (self._services.watcher.run(), self._services.discovery.run())
                self._watching = [asyncio.create_task(one) for one in looking]
                await self._services.discovery.settled()
                self._state = "started"

    async def stop(self) -> None:
        """Stop watching, jobs and engines: running requests end with an error, trainers go on."""
        async with self._lock:
            if self._state == "started":
                for one in self._watching:
                    one.cancel()
                await asyncio.wait(self._watching)
                await self._webhooks.close()
                # Before the engines: a job must not take their end for its own failure.
                await self._services.jobs.close()
                await self._services.batches.close()
                await self._services.responses.close()
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
    registry.presets.check()
    _register(registry, settings)
    residents = Residents(
        settings,
        open_channel=open_channel or plugged_engine(settings),
        records=registry,
        wishes=registry,
    )
    jobs = Jobs(settings, registry, residents)
    webhooks = Webhooks(registry.webhooks, settings.webhook_urls, registry.home, settings.webhook_secret)
    watcher = Watcher(registry, settings.watch, residents.offer)
    inside = Inside()
    at_once = settings.engine.parallel_sequences
    services = Services(
        settings,
        registry,
        residents,
        jobs,
        watcher,
        Metrics(),
        Background(registry.responses),
        Batches(registry.batches, registry.files, inside.call, at_once),
        Discovery(registry, look=settings.discover),
    )
    lifecycle = Lifecycle(services, webhooks)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await lifecycle.start()
        try:
            yield
        finally:
            await lifecycle.close()

    app = Starlette(
        routes=guarded(ROUTES, settings, registry.keys),
        exception_handlers=ERROR_HANDLERS,
        middleware=[
            Middleware(TakeAll),
            Middleware(RequestId),
            Middleware(Measure, answered=services.metrics.answered, routes=ROUTES),
            *browser_guards(settings),
            Middleware(StartFirst, start=lifecycle.start),
        ],
        lifespan=lifespan,
    )
    app.state.services = services
    inside.attach(app)
    app.state.lifecycle = lifecycle
    return app


def _register(registry: Registry, settings: Settings) -> None:
    if settings.projector is not None and len(settings.models) != 1:
        raise BadRequest("A projector goes with exactly one model.", param="projector")
    if NANO.exists():
        try:
            registry.add_base(NANO, "nano")
        except Conflict as error:  # the user has a model of that name: theirs it stays
            log.warning("the model that ships is not registered: %s", error)
    for model in settings.models:
        path = Path(model).expanduser()
        if path.is_file() or path.suffix == ".gguf":
            registry.add_base(path, projector=settings.projector)
        else:
            _known(registry, model, settings.projector)
    for base in registry.bases():
        if not base.missing and base.found_in is None:
            admin.note_fallback(base)


def _known(registry: Registry, name: str, projector: Path | None) -> None:
    try:
        base = registry.base(name)
        if projector is not None:
            registry.add_base(base.path, name, projector=projector)
    except ModelNotFound as error:
        hint = f" Nearest names: {', '.join(error.nearest)}." if error.nearest else ""
        raise NotFound(
            f"`{name}` is neither a GGUF file nor a registered model.{hint}", param="model"
        ) from error
