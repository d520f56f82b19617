"""`GET /llamaleon/ps`: the base models in memory, and what each says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.engine.status import BankStatus, PrefixStatus
from llamaleon_server.residents.residents import ResidentInfo
from llamaleon_server.residents.throughput import Vitals
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.made import options_shown
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.shown import ShownList

Names = Mapping[str, str]  # content key -> `BASE+NAME@VERSION`


async def ps(request: Request) -> Response:
    services = services_of(request)
    vitals = await services.residents.vitals()
    infos = services.residents.ps()
    data = [_model(info, vitals.get(info.name), services.registry.adapter_names(info.name)) for info in infos]
    return json_response({"object": "list", "data": data})


def _model(info: ResidentInfo, vitals: Vitals | None, names: Names) -> dict[str, Any]:
    """What the engine says is null while it loads, or if it does not answer in time."""
    shown: dict[str, Any] = msgspec.structs.asdict(info) | {"options": options_shown(info.options)}
    shown["adapters"] = [
        {**_named(key, names), "pinned": key in info.pinned} for key in shown.pop("adapters")
    ]
    del shown["pinned"]
    if vitals is None:
        return {**shown, "waiting": 0, "rates": None, "kv": None, "step": None, "bank": None, "prefix": None}
    status = vitals.status
    return {
        **shown,
        "running": status.running,
        "waiting": status.waiting,
        "rates": vitals.rates,
        "kv": {"used_tokens": status.kv_used_tokens, "total_tokens": status.kv_total_tokens},
        "step": status.step,
        "bank": _bank(status.bank, names),
        "prefix": _prefix(status.prefix),
    }


def _bank(bank: BankStatus, names: Names) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(bank),
        "hot": [{**_named(hot.key, names), **msgspec.structs.asdict(hot)} for hot in bank.hot],
        "alone": [{**_named(key, names), "reason": reason} for key, reason in bank.alone.items()],
    }


def _prefix(prefix: PrefixStatus) -> dict[str, Any]:
    looked_up = prefix.prompt_tokens
    return {
        **msgspec.structs.asdict(prefix),
        "hit_rate": prefix.hit_tokens / looked_up if looked_up else None,
    }


def _named(key: str, names: Names) -> dict[str, Any]:
    """`name` is null once no name stands for the content any more."""
    return {"name": names.get(key), "key": key}


routes = [Described("/llamaleon/ps", ps, methods=["GET"], answer=ShownList)]
