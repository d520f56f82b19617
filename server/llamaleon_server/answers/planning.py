"""What an `Ask` means to one model: what the engine runs, and how its answers are to be read."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from llamaleon_server.chat.ask import PLAIN, Ask, Message, Preset, Tool
from llamaleon_server.chat.dialects.dialect import Setup, function
from llamaleon_server.chat.dialects.lark import Lark
from llamaleon_server.chat.forms import grammar_of
from llamaleon_server.chat.literal import Guard
from llamaleon_server.chat.output import Output
from llamaleon_server.chat.prompt import Manner, manner_of
from llamaleon_server.chat.template import ChatTemplate, chat_template
from llamaleon_server.engine.protocol import MEDIA_MARKER, GenerateRequest
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.records import Base, Target


class Plan(Struct, frozen=True):
    """`requests`: one per choice."""

    requests: list[GenerateRequest]
    manner: Manner
    setup: Setup

    def output(self) -> Output:
        """Of one choice."""
        return Output(self.manner.dialect, self.setup)


def plan_of(target: Target, ask: Ask) -> Plan:
    """Takes long (a second, at the worst) where there are tools or a form: keep it off the event loop.

    Raises: TemplateRefused; BadRequest for a form, tools or images that cannot be had, naming the field.
    """
    preset = target.preset
    template = template_of(target.base, preset)
    manner = manner_of(template)
    _check_media(target.base, ask)
    guard = Guard(ask.messages, [function(tool) for tool in ask.tools], ask.template_options, ask.preamble)
    prompt, breaks = guard.cut(_prompt(template, manner, ask, preset, guard))
    setup = _setup(manner, ask, prompt)
    if ask.preamble:
        own = prompt.removeprefix(target.base.bos_token)
        moved = len(ask.preamble) - (len(prompt) - len(own))
        prompt, breaks = ask.preamble + own, tuple(at + moved for at in breaks)
    wanted = ask.wanted.over(preset.wanted)
    first = GenerateRequest(
        prompt=prompt,
        breaks=breaks,
        add_special=not template.begins_with_bos(prompt),
        max_tokens=preset.max_tokens if ask.max_tokens is None else ask.max_tokens,
        context_tokens=preset.context_tokens,
        stop=(*ask.stop, *preset.stop),
        logprobs=ask.logprobs,
        ignore_eos=ask.ignore_eos,
        cache_prompt=ask.cache_prompt,
        grammar=_grammar(manner, setup, ask),
        parse_special_output=_shows_control_tokens(manner, setup),
        media=ask.media,
    )
    requests = [replace(first, sampling=wanted.sampling(choice)) for choice in range(ask.choices)]
    return Plan(requests, manner, setup)


def template_of(base: Base, preset: Preset = PLAIN) -> ChatTemplate:
    source = base.chat_template if preset.template is None else preset.template
    return chat_template(source, base.bos_token, base.eos_token)


# ---------------------------------------------------------------- the prompt


def _prompt(template: ChatTemplate, manner: Manner, ask: Ask, preset: Preset, guard: Guard) -> str:
    """With the guard's marks in what the request says; a preset may have control tokens in its words."""
    messages = _with_preset(guard.guarded(ask.messages), preset)
    begun = messages.pop() if ask.continue_last and messages[-1]["role"] == "assistant" else None
    prompt = manner.render(
        template,
        messages,
        tools=() if ask.tool_choice.mode == "none" else [_guarded(tool, guard) for tool in ask.tools],
        parallel=ask.parallel_tool_calls,
        options=_options(manner, ask),
    )
    return prompt if begun is None else prompt + manner.dialect.begun(prompt, manner.tags, begun)


def _with_preset(messages: list[Message], preset: Preset) -> list[Message]:
    """The request's system message, else the preset's; then the preset's example turns; then the rest."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    rest = messages[len(system) :]
    if not system and preset.system is not None:
        system = [{"role": "system", "content": preset.system}]
    return [*system, *preset.messages, *rest]


def _guarded(tool: Tool, guard: Guard) -> Tool:
    return replace(
        tool, description=guard.guarded(tool.description), parameters=guard.guarded(tool.parameters)
    )


def _options(manner: Manner, ask: Ask) -> dict[str, Any]:
    """For the template. `thinking` is Granite's and DeepSeek's name for `enable_thinking`."""
    options: dict[str, Any] = {}
    if ask.thinking is not None:
        options |= {"enable_thinking": ask.thinking, "thinking": ask.thinking}
    if ask.effort is not None:
        options["reasoning_effort"] = manner.dialect.efforts.get(ask.effort, ask.effort)
    return options | ask.template_options


def _check_media(base: Base, ask: Ask) -> None:
    if ask.media and base.projector is None:
        raise BadRequest(
            f"`{ask.media_fields[0]}`: the model `{base.name}` has no projector, so it cannot see images.",
            param=ask.media_fields[0],
        )
    written = sum(str(message.get("content")).count(MEDIA_MARKER) for message in ask.messages)
    if ask.media and written != len(ask.media):
        raise BadRequest(f"`messages`: a text must not contain {MEDIA_MARKER!r}.", param="messages")


# ---------------------------------------------------------------- the answer


def _setup(manner: Manner, ask: Ask, prompt: str) -> Setup:
    """Once a prompt has closed the thinking block, or begun the answer itself, no more thinking comes."""
    tags = manner.tags
    opened = manner.dialect.opens(prompt, tags) or _begun_thinking(ask)
    closed = tags is not None and not opened and (ask.continue_last or prompt.rstrip().endswith(tags.end))
    return Setup(
        tools=_callable(ask),
        required=ask.tool_choice.mode == "required",
        parallel=ask.parallel_tool_calls and not _is_named(ask),
        tags=None if closed else tags,
        opened=opened,
        form=None if ask.form is None else "@form",
    )


def _is_named(ask: Ask) -> bool:
    """Who names a tool wants one call of it."""
    return ask.tool_choice.mode == "required" and len(ask.tool_choice.names) == 1


def _begun_thinking(ask: Ask) -> bool:
    """Whether the answer that goes on was still thinking."""
    last = ask.messages[-1] if ask.continue_last else {}
    return bool(last.get("reasoning_content")) and not last.get("content")


def _callable(ask: Ask) -> tuple[Tool, ...]:
    if ask.tool_choice.mode == "none":
        return ()
    names = ask.tool_choice.names
    return tuple(tool for tool in ask.tools if not names or tool.name in names)


def _shows_control_tokens(manner: Manner, setup: Setup) -> bool:
    """Whether what is read, thinking or calls, may be marked by control tokens."""
    return bool(setup.tags) or (manner.dialect.reads(setup) and manner.dialect.has_control_tokens)


def _grammar(manner: Manner, setup: Setup, ask: Ask) -> str | None:
    if not setup.tools and ask.form is None:
        return None
    form = None if ask.form is None else grammar_of(ask.form)
    if form is not None and not manner.dialect.reads(setup):
        return form
    if ask.thinking is False and not setup.opened:
        setup = replace(setup, tags=None)  # where there is a grammar, it can keep a model from it
    lark = Lark()
    answer = lark.of(manner.dialect.grammar(lark, setup))
    if form is None:
        return answer
    if form.lstrip().startswith("{"):
        first, *others = json.loads(form)["grammars"]
    else:
        first, others = {"lark_grammar": form}, []
    parts = [{"name": "answer", "lark_grammar": answer}, {**first, "name": "form"}, *others]
    return json.dumps({"grammars": parts}, ensure_ascii=False)
