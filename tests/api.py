"""The API in this process with fake engines: no llama.cpp, no port, real routes and real errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from llamaleon_server.app import create_app
from llamaleon_server.settings import Settings
from llamaleon_server.testing import FakeEngines
from llamaleon_server.web.services import Services

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class Api:
    app: Starlette
    http: httpx.AsyncClient
    engines: FakeEngines

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    async def post(self, route: str, /, **body: Any) -> httpx.Response:
        return await self.http.post(route, json=body)

    async def chat(self, text: str = "¿Qué tal?", **more: Any) -> httpx.Response:
        body = {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}
        return await self.post("/v1/chat/completions", **body)

    async def complete(self, prompt: Any = "Hola", **more: Any) -> httpx.Response:
        return await self.post("/v1/completions", **{"model": "tiny", "prompt": prompt, **more})

    def prompts(self) -> list[Any]:
        """The prompts of all generations that the last engine was sent."""
        from llamaleon_server.engine.protocol import Generate

        return [message.prompt for message in self.engines.last.received if isinstance(message, Generate)]


def events(response: httpx.Response) -> list[Any]:
    """The data of every server-sent event; `[DONE]` as that text."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in found]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """OpenAI's error body, whole: exactly its four keys."""
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


@contextlib.asynccontextmanager
async def running_api(
    home: Path, *bases: Path, engines: FakeEngines | None = None, **settings: Any
) -> AsyncIterator[Api]:
    """`bases` are registered under their stems, beside the model that ships."""
    engines = engines or FakeEngines()
    models = tuple(str(base) for base in bases)
    app = create_app(Settings(home=home, models=models, **settings), open_channel=engines.open)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        try:
            yield Api(app, http, engines)
        finally:
            await app.state.lifecycle.close()
