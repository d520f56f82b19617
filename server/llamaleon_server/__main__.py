"""`python -m llamaleon_server`: the server as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import uvicorn
from sse_starlette.sse import AppStatus

from llamaleon_server.app import create_app
from llamaleon_server.errors import LlamaleonError
from llamaleon_server.settings import EngineSettings, Settings, bytes_of, default_home

GRACE_S = 2.0  # for running requests to finish, once asked to stop; a second Ctrl-C does not wait
LAST_RESORT_S = 30  # then uvicorn drops what still runs
BACKLOG = 2048


def parser() -> argparse.ArgumentParser:
    """Options whose default is None are automatic, or as `Settings` says."""
    made = argparse.ArgumentParser(prog="python -m llamaleon_server", description=__doc__)
    made.add_argument("--host", default="127.0.0.1", help="address to listen on")
    made.add_argument("--port", type=int, default=11711, help="0: any free port")
    made.add_argument("--home", type=Path, help="state directory; default $LLAMALEON_HOME or ~/.llamaleon")
    made.add_argument("--model", action="append", default=[], metavar="PATH_OR_NAME", help="repeatable")
    made.add_argument("--watch", action="append", default=[], type=Path, metavar="DIR", help="repeatable")
    made.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    made.add_argument(
        "--idle-unload", "--idle-unload-s", type=float, metavar="SECONDS", help="default 600; 0: never"
    )
    engine = made.add_argument_group("engine")
    engine.add_argument("--gpu-layers", type=int, help="default: as many as fit")
    engine.add_argument("--context", dest="context_tokens", type=int, metavar="TOKENS", help="per request")
    engine.add_argument("--parallel", dest="parallel_sequences", type=int, help="requests generated at once")
    engine.add_argument("--kv-tokens", type=int, help="KV cache of all requests together; default: what fits")
    engine.add_argument("--batch-tokens", type=int, help="most tokens of one step")
    engine.add_argument(
        "--step-target",
        dest="step_target_s",
        type=float,
        metavar="SECONDS",
        help="see `llamaleon serve --help`",
    )
    engine.add_argument("--speculation", action=argparse.BooleanOptionalAction, default=None)
    engine.add_argument("--mixing", action=argparse.BooleanOptionalAction, default=None)
    engine.add_argument("--bank-ranks", type=int, help="most ranks of the adapter bank")
    engine.add_argument(
        "--adapter-ram", dest="adapter_ram_bytes", type=_size, metavar="SIZE", help="4GiB, ..."
    )
    engine.add_argument("--prefix-ram", dest="prefix_ram_bytes", type=_size, metavar="SIZE", help="1GiB, ...")
    engine.add_argument("--threads", type=int)
    engine.add_argument("--flash-attention", action=argparse.BooleanOptionalAction, default=None)
    engine.add_argument("--kv-type", help="f32, f16, bf16, q8_0, q4_0, ...")
    engine.add_argument("--queue-limit", type=int, help="requests waiting for one model before 429")
    return made


def _size(text: str) -> int:
    try:
        return bytes_of(text)
    except ValueError as error:  # argparse would hide the message of a plain ValueError
        raise argparse.ArgumentTypeError(str(error)) from error


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Raises: ValueError naming the setting that cannot be."""
    given = vars(arguments)
    engine = {name: given[name] for name in EngineSettings.__struct_fields__ if given.get(name) is not None}
    settings = Settings(
        home=(arguments.home or default_home()).expanduser().absolute(),
        host=arguments.host,
        port=arguments.port,
        models=tuple(arguments.model),
        watch=tuple(arguments.watch),
        engine=EngineSettings(**engine),
    )
    if arguments.idle_unload is None:
        return settings
    return msgspec.structs.replace(settings, idle_unload_s=arguments.idle_unload or None)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        settings = settings_of(arguments)
    except ValueError as error:
        print(f"llamaleon: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        listener = listen(settings.host, settings.port)
        with listener:
            asyncio.run(serve(settings, listener, arguments.log_level))
    except (LlamaleonError, OSError) as error:
        print(f"llamaleon: {error}", file=sys.stderr)
        return 1
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Raises: OSError in words that say what to do."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # Named, the protocol lets asyncio switch TCP_NODELAY on; else a token waits 40 ms for the last one's ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Now, not later: two binds with SO_REUSEADDR are allowed, two listeners are not.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {host} port {port}: {error.strerror}. Is a server running there already? "
            "Choose another --port."
        ) from error
    return listener


class Server(uvicorn.Server):
    """Announces itself once it listens. A signal means: stop in order, then return."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        listener: socket.socket,
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._stop = stop
        self._settings = settings
        self._url = url_of(settings.host, listener.getsockname()[1])
        self._record = settings.home / "server.json"

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again after stopping, which would skip our cleaning up.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        partial = self._record.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps({"pid": os.getpid(), "url": self._url}), encoding="utf-8")
        partial.replace(self._record)
        print(f"Llamaleon is ready at {self._url}  (OpenAI clients: base_url={self._url}/v1)", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_requests())
        await super().shutdown(sockets)
        ending.cancel()
        await asyncio.wait([ending])

    async def _end_requests(self) -> None:
        """What has not finished in time gets a proper error, inside a stream as an event."""
        await asyncio.sleep(GRACE_S)
        await self._stop()

    def withdraw(self) -> None:
        """Remove `server.json`, unless another server has written its own."""
        with contextlib.suppress(OSError, ValueError):
            if json.loads(self._record.read_bytes())["pid"] == os.getpid():
                self._record.unlink()


async def serve(settings: Settings, listener: socket.socket, log_level: str) -> None:
    """Until a signal asks to stop. Raises: LlamaleonError if the services cannot start."""
    if not is_loopback(settings.host):
        warn_exposed(settings.host)
    app = create_app(settings)
    AppStatus.enable_automatic_graceful_drain = False  # streams end with an error event, not in the middle
    try:
        await app.state.lifecycle.start()  # here rather than in the lifespan, for a message without a trace
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning" if log_level == "info" else log_level,
            access_log=log_level == "debug",
            timeout_graceful_shutdown=LAST_RESORT_S,
            ws="none",
        )
        server = Server(config, settings, listener, app.state.lifecycle.stop)
        try:
            await server.serve(sockets=[listener])
        finally:
            server.withdraw()
    finally:
        await app.state.lifecycle.close()


def url_of(host: str, port: int) -> str:
    """Where a client on this machine finds it."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def warn_exposed(host: str) -> None:
    line = "*" * 78
    print(
        f"{line}\n  WARNING: listening on {host}. Whoever reaches this machine over the network can use\n"
        "  its models, register its files and start training: there is no password.\n"
        f"  Do this only in a network that you trust.\n{line}",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
