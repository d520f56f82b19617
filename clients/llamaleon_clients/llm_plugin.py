"""A plugin of simonw's `llm`: every model and adapter of the running server, by name, in `llm models`.

    llm install .    # in the folder of this project
    llm -m nano+informes "Parte diario de ..."
    llm embed -m nano -c "hola"

The server is $LLAMALEON_URL, else this machine's. If none answers, there are no models of ours: `llm` must go
on working for everybody else's. Loaded by `llm` through its entry point; nothing of ours imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import llm
import openai
from llm.default_plugins.openai_models import AsyncChat, Chat

from llamaleon_clients.errors import ClientError
from llamaleon_clients.python import Llamaleon

WAIT_S = 2.0  # for the list of models: every `llm` command asks for it
PREFIX = "llamaleon/"
NO_KEY = "unused"  # the openai package insists on one


class Text(Chat):  # type: ignore[misc]  # llm ships no types
    """Shown by `llm models` under our name, not OpenAI's."""

    needs_key = "llamaleon"
    key_env_var = "LLAMALEON_API_KEY"

    def get_key(self, explicit_key: str | None = None) -> str:
        return super().get_key(explicit_key) or NO_KEY

    def __str__(self) -> str:
        return f"Llamaleon: {self.model_id}"


class AsyncText(AsyncChat):  # type: ignore[misc]  # llm ships no types
    needs_key = "llamaleon"
    key_env_var = "LLAMALEON_API_KEY"

    def get_key(self, explicit_key: str | None = None) -> str:
        return super().get_key(explicit_key) or NO_KEY

    def __str__(self) -> str:
        return f"Llamaleon: {self.model_id}"


class Embedding(llm.EmbeddingModel):  # type: ignore[misc]  # llm ships no types
    needs_key = "llamaleon"
    key_env_var = "LLAMALEON_API_KEY"
    batch_size = 64

    def __init__(self, name: str, base_url: str) -> None:
        self.model_id = f"{PREFIX}{name}"
        self._name = name
        self._base_url = base_url

    def get_key(self, explicit_key: str | None = None) -> str:
        return super().get_key(explicit_key) or NO_KEY

    def embed_batch(self, items: Iterable[str | bytes]) -> Iterator[list[float]]:
        texts = [item if isinstance(item, str) else item.decode() for item in items]
        client = openai.OpenAI(base_url=self._base_url, api_key=self.get_key())
        answer = client.embeddings.create(model=self._name, input=texts)
        return ([float(number) for number in item.embedding] for item in answer.data)


@llm.hookimpl
def register_models(register: Callable[..., Any]) -> None:
    names, base_url = _served()
    for name in names:
        arguments: dict[str, Any] = {
            "model_id": f"{PREFIX}{name}",
            "model_name": name,
            "api_base": base_url,
            "supports_schema": True,
            "supports_tools": True,
        }
        register(Text(**arguments), AsyncText(**arguments), aliases=(name,))


@llm.hookimpl
def register_embedding_models(register: Callable[..., Any]) -> None:
    names, base_url = _served()
    for name in names:
        register(Embedding(name, base_url), aliases=(name,))


def _served() -> tuple[list[str], str]:
    """Names, and OpenAI's base URL."""
    with Llamaleon(timeout_s=WAIT_S) as client:
        try:
            return [model.id for model in client.models.list() if not model.missing], client.openai_url
        except ClientError:
            return [], client.openai_url
