"""From `--url` to a client that answers, and from a path to a name the server knows."""

from __future__ import annotations

from pathlib import Path

from llamaleon_clients import local
from llamaleon_clients.api import Client
from llamaleon_clients.console import note
from llamaleon_clients.errors import BadInput, ServerRefused
from llamaleon_clients.words import say


def connect(url: str | None) -> Client:
    """A client of the server at `url`; None means this machine's, started in the background if none runs."""
    if url is not None:
        return Client(url)
    home = local.home_dir()
    running = local.find(home)
    if running is None:
        running, started = local.start(home)
        if started:
            log = home / "server.log"
            note(
                say(
                    "Started a server at {url} (log: {log}; stop it with `llamaleon stop`).",
                    url=running.url,
                    log=log,
                )
            )
    return Client(running.url)


def connect_if_running(url: str | None) -> Client | None:
    if url is not None:
        return Client(url)
    running = local.find(local.home_dir())
    return None if running is None else Client(running.url)


def existing(path: Path, what: str) -> Path:
    """`path`, which must be there.

    Raises:
        BadInput: nothing lies there; `what`, in the user's language, says what was looked for.
    """
    if not path.exists() and path.is_absolute():
        raise BadInput(say("{what} {path} does not exist.", what=what, path=path))
    if not path.exists():
        raise BadInput(
            say("{what} {path} does not exist (looked in {folder}).", what=what, path=path, folder=Path.cwd())
        )
    return path


def model_name(client: Client, model: str) -> str:
    """The server's name of `model`: a path to a GGUF file is registered first, a name stays as it is.

    Raises:
        BadInput: a path to nothing.
    """
    path = Path(model).expanduser()
    if is_file(model):
        return str(client.add_base(existing(path, say("The model file")))["name"])
    if "/" in model and model.lower().endswith(".gguf"):  # a path to nothing, or a name of the hub's
        try:
            client.model(model)
        except ServerRefused as error:
            if error.status == 404:
                existing(path, say("The model file"))
            raise
    return model


def is_file(model: str) -> bool:
    """Whether `model` is the path of a GGUF file, and not a name: `OWNER/REPO/FILE.gguf` may be one."""
    there = Path(model).expanduser().exists() or model.startswith(("/", "./", "../", "~"))
    return there and model.lower().endswith(".gguf")
