"""What a line that begins with `/` does. Each command takes the rest of its line and returns what to say."""

from __future__ import annotations

import json
from collections.abc import Callable

from llamaleon_clients.errors import ClientError
from llamaleon_clients.talk.conversation import Conversation, base_of, value_of
from llamaleon_clients.words import say

LEAVE = ("/bye", "/exit", "/quit")
# As they are typed -> as the API names them.
PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "repeat_penalty": "repeat_penalty",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "max_tokens": "max_tokens",
    "num_predict": "max_tokens",  # Ollama's word
    "stop": "stop",
    "effort": "reasoning_effort",
}


class Unusable(ClientError):
    """A command that makes no sense as typed; the message says how it is meant."""


def help_text() -> str:
    return say(
        "/adapter NAME[*W][+...]  go on under other adapters; none: the base alone\n"
        "/model NAME              go on with another model\n"
        "/set system TEXT         the system message; without TEXT: none\n"
        "/set NAME VALUE          temperature, top_p, seed, max_tokens, stop, effort, ...\n"
        "/set think on|off        whether a model that can think does\n"
        "/set format json|off     answers that are a JSON object\n"
        "/show                    model and settings; /show adapters: what else there is\n"
        "/clear                   forget the conversation\n"
        "/bye                     leave; so does Ctrl-D. Ctrl-C stops an answer\n"
        '"""                      begins and ends a text of several lines'
    )


def run(conversation: Conversation, line: str) -> str:
    """Carry out a command; what to tell the user.

    Raises: Unusable; ServerRefused if the server does not know a name.
    """
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        known = ", ".join((*COMMANDS, LEAVE[0]))
        raise Unusable(say("There is no {name}. Commands: {commands}.", name=name, commands=known))
    return command(conversation, rest.strip())


def _clear(conversation: Conversation, rest: str) -> str:
    conversation.clear()
    return say("The conversation is forgotten.")


def _help(conversation: Conversation, rest: str) -> str:
    return help_text()


def _model(conversation: Conversation, rest: str) -> str:
    if not rest:
        raise Unusable(say("Which model? /model NAME"))
    conversation.client.model(rest)  # unknown names are told now, not with the next question
    conversation.model = rest
    return say("Going on with {model}.", model=rest)


def _adapter(conversation: Conversation, rest: str) -> str:
    if not rest:
        raise Unusable(say("Which adapter? /adapter NAME, /adapter A*0.7+B*0.3, or /adapter none"))
    base = base_of(conversation.client, conversation.model)
    return _model(conversation, base if rest == "none" else f"{base}+{rest.removeprefix(f'{base}+')}")


def _set(conversation: Conversation, rest: str) -> str:
    name, _, value = rest.partition(" ")
    name, value = value.strip().partition(" ")[::2] if name == "parameter" else (name, value)  # Ollama's
    value = value.strip()
    if name == "system":
        conversation.system = value or None
        return say("System message set.") if value else say("No system message.")
    if name == "think":
        return _set_think(conversation, value)
    if name == "format":
        return _set_format(conversation, value)
    if name not in PARAMETERS:
        known = ", ".join(["system", "think", "format", *PARAMETERS])
        raise Unusable(say("There is no setting {name}. Settings: {known}.", name=name, known=known))
    if not value:
        conversation.settings.pop(PARAMETERS[name], None)
        return say("{name} is as the model has it.", name=name)
    conversation.settings[PARAMETERS[name]] = value if name == "stop" else value_of(value)
    return say("{name} is {value}.", name=name, value=value)


def _set_think(conversation: Conversation, value: str) -> str:
    if value not in ("on", "off"):
        raise Unusable(say("/set think on, or /set think off"))
    conversation.settings["chat_template_kwargs"] = {"enable_thinking": value == "on"}
    return say("Thinking is on.") if value == "on" else say("Thinking is off.")


def _set_format(conversation: Conversation, value: str) -> str:
    if value not in ("json", "off"):
        raise Unusable(say("/set format json, or /set format off"))
    if value == "off":
        conversation.settings.pop("response_format", None)
        return say("Answers are free again.")
    conversation.settings["response_format"] = {"type": "json_object"}
    return say("Answers are a JSON object.")


def _show(conversation: Conversation, rest: str) -> str:
    if rest == "adapters":
        base = base_of(conversation.client, conversation.model)
        names = [entry["id"] for entry in conversation.client.models() if entry.get("parent") == base]
        return "\n".join(names) or say("{base} has no adapters.", base=base)
    facts = {"model": conversation.model}
    if conversation.system is not None:
        facts["system"] = conversation.system
    for name, value in conversation.settings.items():
        facts[name] = json.dumps(value, ensure_ascii=False)
    width = max(map(len, facts))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items())


COMMANDS: dict[str, Callable[[Conversation, str], str]] = {
    "/adapter": _adapter,
    "/model": _model,
    "/load": _model,  # Ollama's word
    "/set": _set,
    "/show": _show,
    "/clear": _clear,
    "/help": _help,
    "/?": _help,
}
