"""The checks around every route of ours, also where the application is mounted in another one."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from llamaleon_server.registry.keys import KeyStore
from llamaleon_server.settings import Settings
from llamaleon_server.web.access import Access, NeedsScope
from llamaleon_server.web.hosts import ANY, Browsers
from llamaleon_server.web.limits import Limited
from llamaleon_server.web.middleware import REQUEST_ID
from llamaleon_server.web.scopes import scope_of


def guarded(routes: Sequence[Route], settings: Settings, keys: KeyStore) -> list[Route]:
    """Copies of the routes: who is asking is checked before a byte of the body is read."""
    access = Access(settings, keys)
    return [_guarded(route, settings, access) for route in routes]


def _guarded(route: Route, settings: Settings, access: Access) -> Route:
    made = copy.copy(route)
    limited = Limited(route.app, settings, upload=getattr(route, "upload", False))
    made.app = NeedsScope(limited, access, scope_of(route))
    return made


def browser_guards(settings: Settings) -> list[Middleware]:
    """CORS, where it is switched on, and what browsers must not do for other sites."""
    hosts = (*settings.allowed_hosts, settings.host)
    guards = [Middleware(Browsers, hosts=hosts, origins=settings.cors_origins)]
    if settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("*",),
            allow_headers=("*",),
            # There are no cookies here; some pages ask for them all the same. Never together with `*`.
            allow_credentials=ANY not in settings.cors_origins,
            expose_headers=(REQUEST_ID, "Retry-After"),
        )
        guards.insert(0, cors)  # outside: refusals, too, may be read by the pages that are allowed
    return guards
