"""An adapter from the Hugging Face hub: a PEFT directory or a GGUF LoRA, into the hub's own cache."""

from __future__ import annotations

import threading
from importlib.metadata import version
from pathlib import Path

from llamaleon_server.errors import BadRequest, NotFound
from llamaleon_server.hub.download import Transport
from llamaleon_server.hub.huggingface import Hub, Repository, fetch_into_cache
from llamaleon_server.hub.names import HubName, parse_name
from llamaleon_server.hub.progress import PUBLIC, Source

PREFIX = "hf:"
CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
SUFFIXES = (".gguf", ".json", ".safetensors", ".bin")


def fetch_adapter(name: str, source: Source = PUBLIC) -> Path:
    """The path of what the server can take in: a folder with PEFT's two files, or a GGUF file. Blocks.

    `name`: `hf:OWNER/NAME`, with `/FILE.gguf` for one file, or what `pull` understands of the hub.

    Raises:
        BadRequest: not a name of the hub, or several GGUF files and no PEFT directory.
        NotFound: no such repository, or no adapter in it.
        HubRefused, DownloadFailed: as `pull`.
    """
    wanted = parse_name(name.removeprefix(PREFIX))
    if not isinstance(wanted, HubName):
        raise BadRequest(f"{name!r} is no repository of the hub: write hf:OWNER/NAME.", param="repo")
    transport = Transport(headers={"User-Agent": f"llamaleon/{version('llamaleon')}"}, stop=threading.Event())
    hub = Hub(source, transport, wanted.endpoint)
    repository = hub.repository(wanted.repo, wanted.revision, SUFFIXES)
    paths = [_fetched(repository, path, transport) for path in _chosen(repository, wanted)]
    return paths[0].parent if len(paths) > 1 else paths[0]


def _chosen(repository: Repository, wanted: HubName) -> list[str]:
    """Paths in the repository. PEFT's files are preferred: they fit any quantisation of the base."""
    there = [file.path for file in repository.files]
    if wanted.file is not None:
        if wanted.file not in there:
            raise NotFound(f"{repository.repo} has no {wanted.file}.{_listed(there)}", param="repo")
        return [wanted.file]
    if CONFIG in there and WEIGHTS in there:
        return [CONFIG, WEIGHTS]
    ggufs = [path for path in there if path.endswith(".gguf")]
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise BadRequest(
            f"{repository.repo} has several GGUF files: write hf:{repository.repo}/FILE.{_listed(ggufs)}",
            param="repo",
        )
    if PICKLED in there:
        raise BadRequest(
            f"{repository.repo} has its weights as {PICKLED} only, a format that can run code: ask its owner "
            f"for {WEIGHTS}.",
            param="repo",
        )
    raise NotFound(
        f"{repository.repo} has no adapter: neither {CONFIG} with {WEIGHTS}, nor a GGUF file.", param="repo"
    )


def _fetched(repository: Repository, path: str, transport: Transport) -> Path:
    remote = next(file.remote for file in repository.files if file.path == path)
    assert remote is not None  # the hub listed it
    return fetch_into_cache(repository, path, remote, transport, lambda _: None)


def _listed(paths: list[str]) -> str:
    return f" It has: {', '.join(paths)}." if paths else ""
