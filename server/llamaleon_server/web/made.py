"""Made models: making and copying them, and what is shown of them and of engines."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.chat.ask import Preset
from llamaleon_server.registry import models
from llamaleon_server.registry.modelfile import Modelfile, adapter_line, parse, printed
from llamaleon_server.registry.records import MadeModel
from llamaleon_server.settings import EngineSettings
from llamaleon_server.web.access import allow_path
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import Services, services_of
from llamaleon_server.wire.models import CopyModel, CreateModel, parse_copy, parse_create


async def create(request: Request) -> Response:
    """Make a model of a Modelfile."""
    asked = parse_create(await request.body())
    modelfile = _modelfile(asked)
    for field, path in models.paths_of(modelfile, asked.path):
        allow_path(request, str(path), field)
    services = services_of(request)
    made = await models.make(
        services.registry,
        asked.name,
        modelfile,
        folder=asked.path,
        replace=asked.replace,
        offer=services.residents.offer,
    )
    return json_response(shown(services, made))


async def copy(request: Request) -> Response:
    """Let another name mean what a model means now."""
    asked = parse_copy(await request.body())
    services = services_of(request)
    made = await asyncio.to_thread(
        models.copy, services.registry, asked.source, asked.destination, replace=asked.replace
    )
    return json_response(shown(services, made))


def _modelfile(asked: CreateModel) -> Modelfile:
    if asked.modelfile is not None:
        return parse(asked.modelfile)
    assert asked.from_ is not None  # one of both is there
    licenses = asked.license if isinstance(asked.license, list) else [asked.license or ""]
    return Modelfile(
        from_=asked.from_,
        adapters=tuple(adapter_line(text) for text in asked.adapters),
        parameters=tuple(asked.parameters.items()),
        system=asked.system,
        template=asked.template,
        messages=tuple((turn.role, turn.content) for turn in asked.messages),
        licenses=tuple(text for text in licenses if text),
    )


def shown(services: Services, made: MadeModel) -> dict[str, Any]:
    """Everything about a made model."""
    return {
        "name": made.name,
        "kind": "made",
        "base": made.base,
        "adapters": [f"{made.base}+{part}" for part in made.adapters],
        "parent": made.parent,
        "created": made.created,
        "modified": made.modified,
        "notes": list(made.notes),
        **preset_shown(services.registry.preset(made.name)),
        **engine_shown(services, made.base),
        "modelfile": printed(made.modelfile),
    }


def preset_shown(preset: Preset) -> dict[str, Any]:
    """What goes with every chat, as far as anything was said."""
    parameters = {
        name: value for name, value in msgspec.structs.asdict(preset.wanted).items() if value is not None
    }
    if preset.stop:
        parameters["stop"] = list(preset.stop)
    if preset.max_tokens is not None:
        parameters["max_tokens"] = preset.max_tokens
    if preset.context_tokens is not None:
        parameters["context_tokens"] = preset.context_tokens
    return {
        "parameters": parameters,
        "system": preset.system,
        "template": preset.template,
        "messages": list(preset.messages),
    }


def engine_shown(services: Services, base: str) -> dict[str, Any]:
    """How the base's engine is to be started, and how it really runs if it does."""
    registry = services.registry
    keep_alive = registry.keep_alive(base)
    keep_alive = services.settings.idle_unload_s if keep_alive is UNSET else keep_alive
    running = next((info for info in services.residents.ps() if info.name == base), None)
    return {
        "keep_alive_s": keep_alive,
        "engine": options_shown(registry.engine_settings(base, services.settings.engine)),
        "running": None if running is None else running.ready,
        "presets_problem": registry.presets.problem,
    }


def options_shown(options: EngineSettings) -> dict[str, Any]:
    """Without what is left to the engine or to the GGUF."""
    return {name: value for name, value in msgspec.structs.asdict(options).items() if value is not None}


routes = [
    Described("/llamaleon/models", create, methods=["POST"], body=CreateModel, answer=dict[str, Any]),
    Described("/llamaleon/copy", copy, methods=["POST"], body=CopyModel, answer=dict[str, Any]),
]
