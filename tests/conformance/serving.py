"""The real server, uvicorn and all, in a process of its own, with engines that answer at once.

python -m tests.conformance.serving HOME PORT [BASE...]
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.conformance.nowhere import hurry

from llamaleon_server.__main__ import listen, serve
from llamaleon_server.settings import Settings
from llamaleon_server.testing import FakeEngines


def main(home: str, port: str, *bases: str) -> None:
    hurry()
    settings = Settings(home=Path(home), port=int(port), models=bases, max_body_bytes=2 << 20, discover=False)
    with listen(settings.host, settings.port) as listener:
        asyncio.run(serve(settings, listener, "warning", open_channel=FakeEngines().open))


if __name__ == "__main__":
    main(*sys.argv[1:])
