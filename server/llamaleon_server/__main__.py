"""`python -m llamaleon_server`: the server as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
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
from llamaleon_server.errors import BadRequest, LlamaleonError
from llamaleon_server.residents.slot import OpenChannel
from llamaleon_server.settings import (
    KV_TYPES,
    ROPE_SCALINGS,
    SPLIT_MODES,
    TRAINING_GPU,
    EngineSettings,
    Settings,
    bytes_of,
    default_home,
)
from llamaleon_server.web.connection import patient

GRACE_S = 2.0  # for running requests to finish, once asked to stop; a second Ctrl-C does not wait
LAST_RESORT_S = 30  # then uvicorn drops what still runs
BACKLOG = 2048
KEEP_ALIVE_S = 75  # longer than clients keep an idle connection, so that they close it and never we


def parser() -> argparse.ArgumentParser:
    """Options whose default is None are automatic, or as `Settings` says."""
    made = argparse.ArgumentParser(prog="python -m llamaleon_server", description=__doc__)
    made.add_argument("--host", default="127.0.0.1", help="address to listen on")
    made.add_argument("--port", type=int, default=11711, help="0: any free port")
    made.add_argument("--home", type=Path, help="state directory; default $LLAMALEON_HOME or ~/.llamaleon")
    made.add_argument("--model", action="append", default=[], metavar="PATH_OR_NAME", help="repeatable")
    made.add_argument("--projector", type=Path, metavar="PATH", help="the mmproj file of the one --model")
    made.add_argument(
        "--discover",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="serve what Ollama, LM Studio and the Hugging Face hub have on this disk",
    )
    made.add_argument("--watch", action="append", default=[], type=Path, metavar="DIR", help="repeatable")
    made.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    made.add_argument(
        "--idle-unload", "--idle-unload-s", type=float, metavar="SECONDS", help="default 600; 0: never"
    )
    made.add_argument(
        "--memory-budget",
        type=_size,
        metavar="SIZE",
        help="of all models together; default: 4/5 of what is free",
    )
    made.add_argument("--max-models", type=int, help="most models in memory at once")
    engine = made.add_argument_group("engine")
    engine.add_argument("--engine", dest="engine_name", metavar="NAME", help="of another package")
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
    engine.add_argument("--kv-type", choices=KV_TYPES, help="of the KV cache; default f16")
    engine.add_argument("--kv-type-k", choices=KV_TYPES, help="of the keys alone")
    engine.add_argument("--kv-type-v", choices=KV_TYPES, help="of the values alone")
    engine.add_argument("--mmap", dest="use_mmap", action=argparse.BooleanOptionalAction, default=None)
    engine.add_argument("--queue-limit", type=int, help="requests waiting for one model before 429")
    _add_training(made.add_argument_group("training"))
    _add_rope(made.add_argument_group("RoPE; default: as the GGUF says"))
    _add_split(made.add_argument_group("several GPUs"))
    _add_access(made.add_argument_group("access"))
    return made


def _add_training(training: argparse._ArgumentGroup) -> None:
    training.add_argument(
        "--training-gpu", choices=TRAINING_GPU, help="who gives way: see `llamaleon serve --help`"
    )
    training.add_argument("--webhook-url", action="append", default=[], metavar="URL", help="repeatable")
    training.add_argument(
        "--webhook-secret-file", type=Path, metavar="FILE", help="default $LLAMALEON_WEBHOOK_SECRET"
    )


def _add_rope(rope: argparse._ArgumentGroup) -> None:
    rope.add_argument("--rope-scaling", choices=ROPE_SCALINGS)
    rope.add_argument("--rope-freq-base", type=float)
    rope.add_argument("--rope-freq-scale", type=float, help="0.25: four times the context")
    rope.add_argument("--yarn-ext-factor", type=float, help="0 to 1, how much is extrapolated")
    rope.add_argument("--yarn-attn-factor", type=float)
    rope.add_argument("--yarn-beta-fast", type=float)
    rope.add_argument("--yarn-beta-slow", type=float)
    rope.add_argument("--yarn-orig-ctx", type=int, metavar="TOKENS")


def _add_split(split: argparse._ArgumentGroup) -> None:
    split.add_argument("--split-mode", choices=SPLIT_MODES, help="default layer")
    split.add_argument("--tensor-split", type=_shares, metavar="SHARES", help="of each GPU: 3,1")
    split.add_argument("--main-gpu", type=int, help="counted from 0")


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} are no shares: write 3,1") from error


def _add_access(access: argparse._ArgumentGroup) -> None:
    access.add_argument("--api-key", help="one key that may do everything; default $LLAMALEON_API_KEY")
    access.add_argument("--insecure", action="store_true", help="listen to a network without any key")
    access.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help="repeatable")
    access.add_argument("--cors-origin", action="append", default=[], metavar="ORIGIN", help="repeatable")
    access.add_argument("--allow-dir", action="append", default=[], type=Path, metavar="DIR")
    access.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM, with its chain")
    access.add_argument("--tls-key", type=Path, metavar="FILE")
    access.add_argument("--max-body", type=_size, metavar="SIZE", help="of JSON; default 64MiB")
    access.add_argument("--max-upload", type=_size, metavar="SIZE", help="default 512MiB")
    access.add_argument("--read-timeout", type=float, metavar="SECONDS", help="default 30")
    access.add_argument(
        "--request-timeout",
        type=float,
        metavar="SECONDS",
        help="until an answer begins; default 3600; 0: none",
    )


def _size(text: str) -> int:
    try:
        return bytes_of(text)
    except ValueError as error:  # argparse would hide the message of a plain ValueError
        raise argparse.ArgumentTypeError(str(error)) from error


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Raises: ValueError naming the setting that cannot be."""
    given = vars(arguments)
    engine = {name: given[name] for name in EngineSettings.__struct_fields__ if given.get(name) is not None}
    access = {
        "max_body_bytes": arguments.max_body,
        "max_upload_bytes": arguments.max_upload,
        "read_timeout_s": arguments.read_timeout,
    }
    settings = Settings(
        home=(arguments.home or default_home()).expanduser().absolute(),
        host=arguments.host,
        port=arguments.port,
        models=tuple(arguments.model),
        projector=arguments.projector,
        discover=arguments.discover,
        watch=tuple(arguments.watch),
        engine=EngineSettings(**engine),
        engine_name=arguments.engine_name,
        memory_budget=arguments.memory_budget,
        max_models=arguments.max_models,
        training_gpu=arguments.training_gpu or "share",
        webhook_urls=tuple(arguments.webhook_url),
        webhook_secret=_webhook_secret(arguments.webhook_secret_file),
        api_key=arguments.api_key or os.environ.get("LLAMALEON_API_KEY") or None,
        insecure=arguments.insecure,
        allowed_hosts=tuple(arguments.allowed_host),
        cors_origins=tuple(arguments.cors_origin),
        allow_dirs=tuple(arguments.allow_dir),
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        **{name: value for name, value in access.items() if value is not None},
    )
    never = {"idle_unload_s": arguments.idle_unload, "request_timeout_s": arguments.request_timeout}
    changed = {name: value or None for name, value in never.items() if value is not None}
    return msgspec.structs.replace(settings, **changed)


def _webhook_secret(file: Path | None) -> str | None:
    """Not an argument itself: `ps` shows those to everybody. Raises: ValueError."""
    if file is None:
        return os.environ.get("LLAMALEON_WEBHOOK_SECRET") or None
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--webhook-secret-file {file} cannot be read: {error}") from error
    if not secret:
        raise ValueError(f"--webhook-secret-file {file} is empty")
    return secret


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        settings = settings_of(arguments)
    except ValueError as error:
        print(f"llamaleon: {error}", file=sys.stderr)
        return 2
    log_to_stderr(arguments.log_level)
    try:
        listener = listen(settings.host, settings.port)
        with listener:
            asyncio.run(serve(settings, listener, arguments.log_level))
    except (LlamaleonError, OSError) as error:
        print(f"llamaleon: {error}", file=sys.stderr)
        return 1
    return 0


def log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "httpx2", "httpcore", "httpcore2"):
        # They log whole URLs, and those that a hub redirects to are signed: whoever has one may download.
        logging.getLogger(name).setLevel(logging.WARNING)


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
        scheme = "http" if settings.tls_cert is None else "https"
        self._url = url_of(settings.host, listener.getsockname()[1], scheme)
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


async def serve(
    settings: Settings, listener: socket.socket, log_level: str, *, open_channel: OpenChannel | None = None
) -> None:
    """Until a signal asks to stop; `open_channel` as in `create_app`.

    Raises: LlamaleonError if the services cannot start.
    """
    app = create_app(settings, open_channel=open_channel)
    if settings.exposed:
        check_exposed(
            settings, has_keys=settings.api_key is not None or app.state.services.registry.keys.any()
        )
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
            http=patient(settings.read_timeout_s),
            timeout_keep_alive=KEEP_ALIVE_S,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        load(config)
        server = Server(config, settings, listener, app.state.lifecycle.stop)
        try:
            await server.serve(sockets=[listener])
        finally:
            server.withdraw()
    finally:
        await app.state.lifecycle.close()


def load(config: uvicorn.Config) -> None:
    """Raises: OSError naming the TLS files that cannot be used."""
    try:
        config.load()
    except OSError as error:
        raise OSError(
            f"cannot use --tls-cert {config.ssl_certfile} with --tls-key {config.ssl_keyfile}: {error}"
        ) from error


def url_of(host: str, port: int, scheme: str = "http") -> str:
    """Where a client on this machine finds it."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"


def check_exposed(settings: Settings, *, has_keys: bool) -> None:
    """Warn, loudly. Raises: BadRequest where others could do everything and nobody has said that they may."""
    if not has_keys and not settings.insecure:
        raise BadRequest(
            f"not listening on {settings.host} without an API key: whoever reaches this machine could use "
            "its models, read its files and start training. Make a key with `llamaleon keys create NAME`, or "
            "say --insecure."
        )
    risks = []
    if not has_keys:
        risks.append(
            "Whoever reaches this machine can use its models, register its files and start training."
        )
    if settings.tls_cert is None:
        risks.append("Nothing is encrypted, keys included: --tls-cert and --tls-key change that.")
    line = "*" * 78
    text = "\n  ".join([f"WARNING: listening on {settings.host}.", *risks])
    print(f"{line}\n  {text}\n{line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
