"""`GET /v1/models` in Anthropic's form, for requests that carry `anthropic-version`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.records import ModelEntry
from llamaleon_server.registry.registry import Registry
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.decode import convert

VERSION_HEADER = "anthropic-version"


class Paging(Struct, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    after_id: str | None = None
    before_id: str | None = None


class ModelInfo(Struct, frozen=True, kw_only=True, tag_field="type", tag="model"):
    id: str
    display_name: str
    created_at: str
    lifecycle: str = "active"
    line: None = None
    capabilities: None = None  # what a model can do shows when it is asked
    max_input_tokens: int
    max_tokens: int
    deprecated_at: None = None
    retires_at: None = None


class ModelPage(Struct, frozen=True, kw_only=True):
    data: list[ModelInfo]
    first_id: str | None
    last_id: str | None
    has_more: bool


def asked_by_anthropic(request: Request) -> bool:
    return VERSION_HEADER in request.headers


async def index(request: Request) -> Response:
    """Models that can be asked for, in pages."""
    paging = _paging(request)
    registry = services_of(request).registry
    entries = registry.listing()
    names = [entry.id for entry in entries]
    if paging.before_id is not None:
        end = _place(names, paging.before_id, "before_id")
        begin = max(0, end - paging.limit)
        has_more = begin > 0
    else:
        begin = 0 if paging.after_id is None else _place(names, paging.after_id, "after_id") + 1
        end = begin + paging.limit
        has_more = end < len(entries)
    shown = [_info(registry, entry) for entry in entries[begin:end]]
    return json_response(
        ModelPage(
            data=shown,
            first_id=shown[0].id if shown else None,
            last_id=shown[-1].id if shown else None,
            has_more=has_more,
        )
    )


async def retrieve(request: Request) -> Response:
    """One model, by any form of its name."""
    registry = services_of(request).registry
    return json_response(_info(registry, registry.entry(request.path_params["name"])))


def _paging(request: Request) -> Paging:
    given = {key: value for key, value in request.query_params.items() if key in Paging.__struct_fields__}
    limit = given.get("limit", "20")
    if not limit.isascii() or not limit.isdigit():
        raise BadRequest(f"`limit`: {limit!r} is no whole number.", param="limit")
    return convert({**given, "limit": int(limit)}, Paging, "")


def _place(names: list[str], name: str, param: str) -> int:
    if name not in names:
        raise BadRequest(f"`{param}`: there is no model {name!r}.", param=param)
    return names.index(name)


def _info(registry: Registry, entry: ModelEntry) -> ModelInfo:
    context_tokens = registry.base(entry.base).n_ctx_train
    return ModelInfo(
        id=entry.id,
        display_name=entry.id,
        created_at=datetime.fromtimestamp(entry.created, UTC).isoformat().replace("+00:00", "Z"),
        max_input_tokens=context_tokens,
        max_tokens=context_tokens,
    )
