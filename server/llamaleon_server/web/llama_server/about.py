"""`/props`, `/apply-template`, `/lora-adapters`, and what llama-server has without `/v1`."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.answers.answering import requests_of, template_of
from llamaleon_server.binding.fitting import MOST_CONTEXT_TOKENS
from llamaleon_server.chat.ask import Ask
from llamaleon_server.chat.prompt import manner_of
from llamaleon_server.registry.records import Target
from llamaleon_server.web import chat, health, models, responses
from llamaleon_server.web.counting import prompt_tokens
from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.llama_server.naming import model_or_only
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.chat import ChatRequest, parse_chat
from llamaleon_server.wire.decode import decode, refuse
from llamaleon_server.wire.llama_server import DEFAULTS
from llamaleon_server.wire.shown import Health, ModelList

SHORT = ("/v1/chat/completions", "/v1/responses", "/v1/responses/input_tokens")


class Modalities(Struct, frozen=True):
    vision: bool
    audio: bool


class Props(Struct, frozen=True, kw_only=True):
    default_generation_settings: dict[str, Any]
    total_slots: int
    model_alias: str
    model_path: str
    modalities: Modalities
    chat_template: str
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: bool


class Prompt(Struct, frozen=True):
    prompt: str


class Counted(Struct, frozen=True):
    input_tokens: int


class LoraAdapter(Struct, frozen=True, kw_only=True):
    """`scale` is what a request that says nothing gets: adapters are asked for, never applied to all."""

    id: int
    path: str
    scale: float
    task_name: str


async def props(request: Request) -> Response:
    """What is known of a model, given `?model=`, without loading it."""
    services = services_of(request)
    target = services.registry.resolve(model_or_only(request, request.query_params.get("model")))
    base, preset = target.base, target.preset
    sampling = msgspec.structs.asdict(preset.wanted.over(DEFAULTS).sampling())
    options = services.registry.engine_settings(base.name, services.settings.engine)
    running = next((info.ready for info in services.residents.ps() if info.name == base.name), None)
    most = options.context_tokens or min(base.n_ctx_train, MOST_CONTEXT_TOKENS)  # unless memory is short
    if running is not None:
        most = running.context_tokens
    limit = -1 if preset.max_tokens is None else preset.max_tokens
    shown = Props(
        default_generation_settings={
            "n_ctx": preset.context_tokens or most,
            "params": {**sampling, "n_predict": limit},
        },
        total_slots=options.parallel_sequences,
        model_alias=target.requested,
        model_path=str(base.path),
        modalities=Modalities(vision=base.projector is not None, audio=False),
        chat_template=template_of(base, preset).source,
        bos_token=base.bos_token,
        eos_token=base.eos_token,
        build_info="llamaleon",
        is_sleeping=False,
    )
    return json_response(shown)


async def apply_template(request: Request) -> Response:
    """The prompt that a chat would be."""
    value = decode(await request.body(), dict[str, Any])
    given = value.get("model")
    value["model"] = model_or_only(request, given) if given is None else given
    asked = parse_chat(msgspec.json.encode(value))
    target = services_of(request).registry.resolve(asked.model)
    return json_response(Prompt(await asyncio.to_thread(_prompt, target, asked)))


def _prompt(target: Target, asked: ChatRequest) -> str:
    ask: Ask = asked.ask()
    if asked.add_generation_prompt is False and not asked.continue_final_message:
        template = template_of(target.base, target.preset)
        return manner_of(template).render(
            template, ask.messages, tools=ask.tools, generation=False, options=ask.template_options
        )
    prompt = requests_of(target, msgspec.structs.replace(ask, form=None))[0].prompt
    assert isinstance(prompt, str)
    return prompt


async def lora_adapters(request: Request) -> Response:
    """The adapters of a model, given `?model=`; their ids count in `lora` of a request."""
    registry = services_of(request).registry
    base = registry.resolve(model_or_only(request, request.query_params.get("model"))).base
    found = registry.lora_ids(base)
    return json_response(
        [
            LoraAdapter(id=at, path=str(one.path), scale=0.0, task_name=one.adapter)
            for at, one in enumerate(found)
        ]
    )


async def set_scales(request: Request) -> Response:
    """Refused: one client would change the answers of all."""
    raise refuse("scale", "name adapters in `model` (BASE+NAME), or in `lora` of each request.")


async def count(request: Request) -> Response:
    """How many tokens the prompt of a chat has."""
    asked = parse_chat(await request.body())
    services = services_of(request)
    target = services.registry.resolve(asked.model)
    return json_response(Counted(await prompt_tokens(services.residents, target, asked.ask())))


def _without_v1(route: Described) -> Described:
    return Described(
        route.path.removeprefix("/v1"),
        route.endpoint,
        methods=route.methods or (),
        body=route.body,
        answer=route.answer,
        events=route.events,
    )


routes = [
    Described("/props", props, methods=["GET"], answer=Props),
    Described("/apply-template", apply_template, methods=["POST"], body=ChatRequest, answer=Prompt),
    Described("/lora-adapters", lora_adapters, methods=["GET"], answer=list[LoraAdapter]),
    Described("/lora-adapters", set_scales, methods=["POST"], status=400),
    Described("/v1/health", health.health, methods=["GET"], answer=Health),
    Described("/models", models.index, methods=["GET"], answer=ModelList),
    *(
        Described(path, count, methods=["POST"], body=ChatRequest, answer=Counted)
        for path in ("/v1/chat/completions/input_tokens", "/chat/completions/input_tokens")
    ),
    *(_without_v1(route) for route in (*chat.routes, *responses.routes) if route.path in SHORT),
]
