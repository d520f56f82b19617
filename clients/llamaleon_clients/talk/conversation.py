"""The messages so far, whom they go to, and with which settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from llamaleon_clients.api import Client, Json

Shown = Callable[[str, str], object]
"""Takes a piece of an answer: its kind, `text` or `thinking`, and the piece."""


@dataclass
class Conversation:
    """A failed question is forgotten; of a stopped answer, what came is kept.

    `adapters` is what follows the base in the model's name, e.g. `a*0.7+b*0.3`; empty for the base alone.
    Changing it keeps the messages: the next answer is given under the other adapters.
    """

    client: Client
    model: str
    system: str | None = None
    settings: Json = field(default_factory=dict)  # fields of the request, by the API's names
    messages: list[Json] = field(default_factory=list)

    def clear(self) -> None:
        self.messages = []

    def ask(self, text: str, show: Shown) -> bool:
        """`show` each piece of the answer as it comes; False if Ctrl-C stopped it.

        Raises: ClientError; the question is then forgotten.
        """
        self.messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        completed = False
        opening = [] if self.system is None else [{"role": "system", "content": self.system}]
        try:
            stream = self.client.stream_deltas(self.model, [*opening, *self.messages], **self.settings)
            with closing(stream) as answer:
                for delta in answer:
                    _take(delta, pieces, show)
            completed = True
        except KeyboardInterrupt:
            pass
        except Exception:  # raised again
            self.messages.pop()
            raise
        if pieces:
            self.messages.append({"role": "assistant", "content": "".join(pieces)})
        else:
            self.messages.pop()  # two questions in a row are refused by many chat templates
        return completed


def _take(delta: Json, pieces: list[str], show: Shown) -> None:
    if thinking := delta.get("reasoning_content"):
        show("thinking", thinking)
    if text := delta.get("content"):
        pieces.append(text)
        show("text", text)


def base_of(client: Client, model: str) -> str:
    """The base model under an adapter, a blend or a made model; a base is its own. Raises: ServerRefused."""
    return str(client.model(model).get("parent") or model)


def value_of(text: str) -> Any:
    """A setting as it is typed: true, false, a number, else the text itself."""
    words = {"true": True, "on": True, "false": False, "off": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else text  # JSON has no word for the others
    return text
