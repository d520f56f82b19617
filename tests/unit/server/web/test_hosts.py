"""What browsers may do: names, origins, CORS."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.api import Api, error_of, running_api

PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-own"}
PAGE = "https://page.example"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:11711",
        "LOCALHOST",
        "127.0.0.1:1",
        "[::1]:11711",
        "192.168.1.5:80",
        "a.localhost",
        "host.docker.internal:11711",
        "box.local",
        "",
    ],
)
async def test_local_names_and_addresses_are_answered(api: Api, host: str) -> None:
    assert (await api.http.get("/health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:11711",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "127.0.0.1:80@evil.example",
        "evil.example#localhost",
        "localhostx",
        "[::1",
        "a b",
        "é",
    ],
)
async def test_other_names_are_not(api: Api, host: str) -> None:
    response = await api.http.get("/health", headers=[(b"host", host.encode("latin-1"))])
    assert response.status_code == 403
    assert error_of(response)["code"] == "host_not_allowed"
    assert "--allowed-host" in error_of(response)["message"]
    assert response.headers["x-request-id"]


async def test_names_can_be_allowed(tmp_path: Path) -> None:
    async with running_api(tmp_path / "home", allowed_hosts=("Llama.Example",)) as api:
        assert (await api.http.get("/health", headers={"host": "llama.example:9"})).status_code == 200
        assert (await api.http.get("/health", headers={"host": "x.llama.example"})).status_code == 403
    async with running_api(tmp_path / "any", allowed_hosts=("*",)) as api:
        assert (await api.http.get("/health", headers={"host": "evil.example"})).status_code == 200


async def test_pages_of_others_can_neither_read_nor_write_blindly(api: Api) -> None:
    """A page may post text/plain anywhere without a preflight: not reading the answer is not enough."""
    for origin in (PAGE, "null", "http://localhost:3000", "http://[", "file://"):
        headers = {"origin": origin, "content-type": "text/plain"}
        response = await api.http.post("/llamaleon/unload", headers=headers, content=b'{"model": "tiny"}')
        assert response.status_code == 403
        assert error_of(response)["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in response.headers
    own = await api.http.get("/health", headers={"origin": "http://localhost"})
    assert own.status_code == 200


async def test_cors_for_named_origins(tmp_path: Path) -> None:
    async with running_api(tmp_path / "home", cors_origins=(PAGE,), api_key="k") as api:
        preflight = await api.http.options("/v1/chat/completions", headers={"origin": PAGE, **PREFLIGHT})
        assert preflight.status_code == 200  # and without the key, which browsers do not send with it
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert (
            preflight.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
        )
        assert preflight.headers["access-control-allow-credentials"] == "true"
        refused = await api.http.get("/v1/models", headers={"origin": PAGE})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == PAGE  # the page may read why
        other = await api.http.options("/v1/models", headers={"origin": "https://x.example", **PREFLIGHT})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        seen = await api.http.get("/health", headers={"origin": "https://x.example"})
        assert (seen.status_code, "access-control-allow-origin" in seen.headers) == (403, False)


async def test_cors_for_everybody_never_comes_with_credentials(tmp_path: Path) -> None:
    async with running_api(tmp_path / "home", cors_origins=("*",)) as api:
        for response in (
            await api.http.options("/v1/models", headers={"origin": PAGE, **PREFLIGHT}),
            await api.http.get("/v1/models", headers={"origin": PAGE, "cookie": "a=b"}),
        ):
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers
