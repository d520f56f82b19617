"""What tells Ollama's clients that a server is there, and how new it is."""

from __future__ import annotations

from importlib.metadata import version

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response

# The release of Ollama whose API this is: clients ask for a version that has what they need.
API_VERSION = "0.34.0"


class Version(Struct, frozen=True, kw_only=True):
    version: str = API_VERSION
    llamaleon: str


async def greet(request: Request) -> Response:
    """A word for whoever looks whether a server is there."""
    return PlainTextResponse("Llamaleon is running")


async def show_version(request: Request) -> Response:
    """The version of Ollama's API that is spoken here, and ours."""
    return json_response(Version(llamaleon=version("llamaleon")))


routes = [
    Described("/", greet, methods=["GET"], media="text/plain"),
    Described("/api/version", show_version, methods=["GET"], answer=Version),
]
