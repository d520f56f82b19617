"""`search`: GGUF repositories of the hub, what they offer, and what of it fits this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from llamaleon_server.errors import BadRequest, LlamaleonError
from llamaleon_server.hub import machine
from llamaleon_server.hub.download import Transport
from llamaleon_server.hub.huggingface import LISTING_TIMEOUT_S, Hub
from llamaleon_server.hub.machine import Fit, Machine
from llamaleon_server.hub.progress import PUBLIC, Source
from llamaleon_server.hub.quants import choose, name_within, variants_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

LISTED_AT_ONCE = 8  # repositories whose files are asked for in parallel: the hub lists no sizes in a search
MOST = 50


class FoundQuant(Struct, frozen=True, kw_only=True):
    """`name` is what to pull; `fits`: gpu, ram or no; `best`: what `pull` takes unasked."""

    name: str
    quant: str
    bytes: int
    fits: Fit
    best: bool = False


class FoundRepo(Struct, frozen=True, kw_only=True):
    """A repository. `quants` smallest first; empty where the hub does not list its files to us."""

    id: str
    downloads: int
    likes: int
    gated: bool
    quants: tuple[FoundQuant, ...] = ()


def search(text: str, *, limit: int = 10, source: Source = PUBLIC) -> list[FoundRepo]:
    """The most downloaded first. Asks over the network: call it in a thread.

    Raises: BadRequest, HubRefused, DownloadFailed.
    """
    if not 1 <= limit <= MOST:
        raise BadRequest(f"`limit` must be between 1 and {MOST}.", param="limit")
    transport = Transport(headers={}, stop=threading.Event())
    hub = Hub(source, transport, attempts=1)  # somebody waits, and can ask again
    repos = hub.ask(lambda api: _listed(api, text, limit), text)
    here = machine.measured()
    with ThreadPoolExecutor(LISTED_AT_ONCE) as pool:
        quants = list(pool.map(lambda repo: _quants(hub, repo.id, here), repos))
    return [
        FoundRepo(
            id=repo.id,
            downloads=repo.downloads or 0,
            likes=repo.likes or 0,
            gated=bool(repo.gated),
            quants=offered,
        )
        for repo, offered in zip(repos, quants, strict=True)
    ]


def _listed(api: HfApi, text: str, limit: int) -> list[ModelInfo]:
    """As `api.list_models`, which would try for half a minute where there is no network."""
    from huggingface_hub import ModelInfo, utils

    params: dict[str, str | int] = {"search": text, "filter": "gguf", "sort": "downloads", "limit": limit}
    hub: Any = utils  # what it exports it does not declare
    headers = hub.build_hf_headers(token=api.token)
    url = f"{api.endpoint}/api/models"
    answer = hub.get_session().get(url, params=params, headers=headers, timeout=LISTING_TIMEOUT_S)
    hub.hf_raise_for_status(answer)
    made: Callable[..., ModelInfo] = ModelInfo
    return [made(**one) for one in answer.json()]


def _quants(hub: Hub, repo: str, here: Machine) -> tuple[FoundQuant, ...]:
    try:
        variants = variants_of(hub.repository(repo).files)
    except LlamaleonError:  # gated, or gone since: still worth a line
        return ()
    try:
        best = choose(variants, here).variant if variants else None
    except LlamaleonError:  # nothing fits
        best = None
    return tuple(
        FoundQuant(
            name=name_within(repo, variant, variants),
            quant=variant.quant,
            bytes=variant.bytes,
            fits=here.fit(variant.bytes),
            best=variant is best,
        )
        for variant in variants
    )
