"""An outside world that has nothing, and says so at once: no test may depend on the network."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from llamaleon_server.hub import download


class _Nothing(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        self.send_response(404)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_HEAD = do_POST = do_CONNECT = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing worth a line."""


@contextmanager
def nowhere() -> Iterator[None]:
    """Hub and registries are a server of ours, in this process and in those that it starts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        wanted = {
            "HF_ENDPOINT": url,
            "HTTPS_PROXY": url,
            "HTTP_PROXY": url,
            "NO_PROXY": "127.0.0.1,localhost",
        }
        kept = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in kept.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            server.shutdown()


def hurry() -> None:
    """A download that fails tries again at once."""
    download.FIRST_PAUSE_S = download.LONGEST_PAUSE_S = 0.001
