"""Names of models for shell completion: quick, silent, and never the reason to start a server."""

from __future__ import annotations

WAIT_S = 1.0


def model_names(incomplete: str) -> list[str]:
    import os

    from llamaleon_clients.api import Client
    from llamaleon_clients.errors import ClientError
    from llamaleon_clients.local import find, home_dir

    url = os.environ.get("LLAMALEON_URL")
    if not url:
        running = find(home_dir(), timeout_s=WAIT_S)
        if running is None:
            return []
        url = running.url
    try:
        with Client(url, timeout_s=WAIT_S) as client:
            names = [str(entry["id"]) for entry in client.models()]
    except ClientError:
        return []
    return [name for name in names if name.startswith(incomplete)]
