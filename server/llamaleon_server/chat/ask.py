"""What a chat asks for, in the words of no protocol. Every chat route makes one `Ask` of its request."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from llamaleon_server.engine.protocol import Sampling

Message = dict[str, Any]
"""A message as chat templates want it, which is OpenAI's form with these differences: `role` is one of
system, user, assistant, tool; `content` is text, or a list of parts where it has images; the `arguments` of
`tool_calls` are objects, not text; an assistant's thinking is `reasoning_content`."""


class Wanted(Struct, frozen=True, kw_only=True):
    """Sampling as far as somebody said something about it. None: nothing was said."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: dict[int, float] | None = None

    def over(self, other: Wanted) -> Wanted:
        """This, and the other's word where this says nothing."""
        return Wanted(
            **{
                field: getattr(other, field) if getattr(self, field) is None else getattr(self, field)
                for field in self.__struct_fields__
            }
        )

    def sampling(self, choice: int = 0) -> Sampling:
        """Of one of several choices, which share everything but the seed. OpenAI's defaults for the rest."""
        said = {
            field: value for field in self.__struct_fields__ if (value := getattr(self, field)) is not None
        }
        if self.top_k is not None:
            # llama.cpp's clients write -1 or 0 for "no limit"; others a number that no message can carry.
            said["top_k"] = max(0, self.top_k) if self.top_k < 2**31 else 0
        if self.seed is not None:  # -1 is llama.cpp's word for "any"
            said["seed"] = None if self.seed == -1 else (self.seed + choice) % 2**31
        return Sampling(**said)


class Tool(Struct, frozen=True, kw_only=True):
    """A function that the model may call. `parameters` is a JSON schema of an object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False  # what of `parameters` cannot be enforced is refused
    field: str = "tools"  # the request's own name of `parameters`, for errors


class ToolChoice(Struct, frozen=True):
    """`required`: at least one call; with `names`, only of these."""

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] = ()


class Form(Struct, frozen=True, kw_only=True):
    """What the answer's text must look like, to the last character.

    `value`: of json_object nothing; of json_schema the schema; of regex and grammar (llguidance's Lark, or
    llama.cpp's GBNF) the text. `field` is the request's own name of it, for errors.
    """

    kind: Literal["json_object", "json_schema", "regex", "grammar"]
    value: Any = None
    field: str = "response_format"


class Ask(Struct, frozen=True, kw_only=True):
    messages: list[Message]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    form: Form | None = None
    thinking: bool | None = None  # None: as the model does unasked
    effort: str | None = None  # low, medium, high, ...: for templates that know it
    template_options: dict[str, Any] = {}  # `chat_template_kwargs`, as llama-server and vLLM have it
    continue_last: bool = False  # the last message is the beginning of the answer
    preamble: str = ""  # what stands before the rendered prompt: earlier turns, as text
    # Encoded images (PNG, JPEG, ...), one for each `MEDIA_MARKER` in the messages' contents, in that order...
    media: tuple[bytes, ...] = ()
    media_fields: tuple[str, ...] = ()  # ...and where the request has them, for errors
    wanted: Wanted = Wanted()
    choices: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # alternatives beside each token
    ignore_eos: bool = False
    cache_prompt: bool = True


class Preset(Struct, frozen=True, kw_only=True):
    """What a model brings to every chat with it, as a Modelfile or a presets file says.

    The request's own word always wins. `template` is Jinja, in place of the GGUF's own.
    """

    system: str | None = None  # where the request has no system message
    template: str | None = None
    messages: tuple[Message, ...] = ()  # before the request's own, after the system message
    wanted: Wanted = Wanted()
    stop: tuple[str, ...] = ()  # beside the request's
    max_tokens: int | None = None
    context_tokens: int | None = None  # most of prompt and answer together, where the engine has more


PLAIN = Preset()
