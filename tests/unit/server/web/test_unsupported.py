"""Every endpoint that the `openai` package knows is here, or is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import openai
import pytest
from tests.api import Api, error_of

from llamaleon_server.app import ROUTES
from llamaleon_server.web.unsupported import ENDPOINTS, why_not

RESOURCES = Path(openai.__file__).parent / "resources"


def known_paths() -> set[str]:
    """As the package's own methods write them, with every parameter as `x`."""
    found: set[str] = set()
    for source in RESOURCES.rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        for path in re.findall(r'"(/[a-z_]+(?:/[a-z_{}]+)*)(?:\?[a-z=]+)?"', text):
            found.add(re.sub(r"{[a-z_]+}", "x", path).removeprefix("/v1"))
    return {path for path in found if path != "/"}


def ours(path: str) -> bool:
    return any(route.path_regex.match(f"/v1{path}") for route in ROUTES)


def test_the_package_was_read() -> None:
    paths = known_paths()
    assert len(paths) > 200
    assert {"/chat/completions", "/audio/speech", "/vector_stores/x/search"} <= paths


@pytest.mark.parametrize("path", sorted(known_paths()))
def test_every_endpoint_is_here_or_refused_by_name(path: str) -> None:
    assert ours(path) or why_not(f"/v1{path}") is not None


@pytest.mark.parametrize("name", ENDPOINTS)
async def test_refusals_are_openais_errors_that_no_client_repeats(api: Api, name: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        response = await api.http.request(method, f"/v1/{name.replace('*', 'x')}/something")
        assert response.status_code in {404, 405}
        error = error_of(response)
        if name == "responses/compact":
            continue  # below it are ours: /v1/responses/{id}/...
        assert error["code"] == "unsupported_endpoint"
        assert ENDPOINTS[name] in error["message"]


async def test_what_is_here_has_its_own_errors(api: Api) -> None:
    assert error_of(await api.http.get("/v1/nothing"))["code"] == "unknown_url"
    assert error_of(await api.http.get("/v1/files/x"))["code"] == "not_found"
    assert error_of(await api.post("/v1/responses/compact"))["code"] == "unsupported_endpoint"
    assert why_not("/llm/v1/audio/speech") is not None  # mounted
    assert why_not("/audio") is None
