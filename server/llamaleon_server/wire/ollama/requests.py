"""Ollama's `/api/chat`, `/api/generate`, `/api/embed` and `/api/embeddings`: what is asked.

Ignored: `truncate` of chats and `shift` (a conversation that does not fit is refused, never cut), and
whatever else clients send.
"""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec import Struct

from llamaleon_server.chat.ask import Ask, Form, Wanted
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import decode, is_set, refuse
from llamaleon_server.wire.ollama.messages import Message, Tool, Turns, tools_of
from llamaleon_server.wire.sampling import Alternatives, Count

# https://github.com/ollama/ollama, api/types.go, DefaultOptions: under what request and model say.
DEFAULTS = Wanted(temperature=0.8, top_k=40, top_p=0.9, repeat_penalty=1.1)
EFFORTS = ("low", "medium", "high", "max")


class Sampled(Struct, frozen=True, kw_only=True):
    """What `options` mean, worked out where the names of all parameters are known."""

    wanted: Wanted
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None


class Asked(Struct, frozen=True, kw_only=True):
    """What chats and generations share. They stream unless `stream` is false."""

    model: str
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None

    @property
    def streams(self) -> bool:
        return self.stream is not False

    def form(self) -> Form | None:
        if not self.format:
            return None
        if isinstance(self.format, str):
            if self.format != "json":
                raise BadRequest(
                    f'`format`: {self.format!r} is neither "json" nor a JSON schema.', param="format"
                )
            return Form(kind="json_object", field="format")
        return Form(kind="json_schema", value=self.format, field="format")

    def thinks(self) -> tuple[bool | None, str | None]:
        """(thinking, effort)."""
        if isinstance(self.think, str):
            if self.think not in EFFORTS:
                raise BadRequest(
                    f"`think`: {self.think!r} is none of true, false, {', '.join(EFFORTS)}.", param="think"
                )
            return True, self.think
        return self.think, None

    def _ask(self, turns: Turns, sampled: Sampled, **more: Any) -> Ask:
        thinking, effort = self.thinks()
        return Ask(
            messages=turns.messages,
            media=tuple(turns.images),
            media_fields=tuple(turns.places),
            form=self.form(),
            thinking=thinking,
            effort=effort,
            wanted=sampled.wanted,
            stop=sampled.stop,
            max_tokens=sampled.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            **more,
        )


class ChatRequest(Asked, frozen=True, kw_only=True):
    messages: list[Message] | None = None
    tools: list[Tool] | None = None

    @property
    def empty(self) -> bool:
        """Then it loads or unloads the model."""
        return not self.messages

    def ask(self, sampled: Sampled) -> Ask:
        """Raises: BadRequest naming the field."""
        turns = Turns()
        for index, message in enumerate(self.messages or []):
            turns.add(message, f"messages[{index}]")
        last = turns.messages[-1]
        continues = last["role"] == "assistant" and not last.get("tool_calls")
        return self._ask(turns, sampled, tools=tools_of(self.tools or []), continue_last=continues)


class GenerateRequest(Asked, frozen=True, kw_only=True):
    prompt: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[Count] | None = None
    raw: bool | None = None
    images: list[str] | None = None
    suffix: str | None = None

    # Of models that make images.
    width: int | None = None
    height: int | None = None
    steps: int | None = None

    @property
    def empty(self) -> bool:
        """Then it loads or unloads the model."""
        return not (self.prompt or self.images or self.suffix)

    def check(self) -> None:
        """Raises: BadRequest naming the field."""
        for param in ("width", "height", "steps"):
            if is_set(getattr(self, param)):
                raise refuse(param, "this server makes no images.")
        for plain in ("raw", "suffix"):
            for param in ("template", "system", "context", "images"):
                if getattr(self, plain) and is_set(getattr(self, param)):
                    raise BadRequest(f"`{plain}` takes the prompt as it is, without `{param}`.", param=param)

    def ask(self, sampled: Sampled, before: str = "") -> Ask:
        """`before`: the text that `context` stands for. Raises: BadRequest naming the field."""
        turns = Turns()
        if self.system:
            turns.messages.append({"role": "system", "content": self.system})
        content = turns.seen(self.prompt or "", self.images or [], "images")
        turns.messages.append({"role": "user", "content": content})
        return self._ask(turns, sampled, preamble=before)


class EmbedRequest(Struct, frozen=True, kw_only=True):
    model: str
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None

    def inputs(self) -> list[str]:
        if isinstance(self.input, str):
            return [self.input] if self.input else []
        return self.input or []


class EmbeddingsRequest(Struct, frozen=True, kw_only=True):
    """The older route: one text, one vector."""

    model: str
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


Shape = TypeVar("Shape", bound=Asked | EmbedRequest | EmbeddingsRequest)


def parse(body: bytes, shape: type[Shape]) -> Shape:
    """Raises: BadRequest naming the field."""
    asked = decode(body, shape)
    if not asked.model:
        raise BadRequest("`model` is required.", param="model")
    return asked
