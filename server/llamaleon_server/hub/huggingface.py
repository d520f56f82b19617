"""The Hugging Face hub: what a repository has, and fetching it into the hub's own cache.

Other programs find there what we fetched, and the model is served from there in place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from msgspec import Struct

from llamaleon_server.errors import BadRequest, DownloadFailed, HubRefused, NotFound
from llamaleon_server.hub import places
from llamaleon_server.hub.download import RemoteFile, Transport, fetch, refused
from llamaleon_server.hub.machine import Machine
from llamaleon_server.hub.names import HubName
from llamaleon_server.hub.progress import Source
from llamaleon_server.hub.quants import Choice, RepoFile, choose, chosen, named, variants_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PUBLIC_ENDPOINT = "https://huggingface.co"
# What the other side sends and we make folders and files of: whoever sends anything else means no good.
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|git:[0-9a-f]{40}")
LISTING_ATTEMPTS = 3
LISTING_TIMEOUT_S = 15.0
Answer = TypeVar("Answer")


class Repository(Struct, frozen=True, kw_only=True):
    """What a repository has at one commit."""

    repo: str
    commit: str
    revision: str
    files: tuple[RepoFile, ...]
    kind: str = "models"  # or "datasets", as the cache's folders are called


class Hub:
    """One endpoint with one token, asked synchronously: the caller is a thread that may wait."""

    def __init__(
        self,
        source: Source,
        transport: Transport,
        endpoint: str | None = None,
        *,
        attempts: int = LISTING_ATTEMPTS,
        own_token: bool = True,
    ) -> None:
        """`endpoint`: of a URL that was given as a name. `attempts`: of each question.

        `own_token`: whether a token of this server may be used where the request brings none.
        """
        from huggingface_hub import get_token

        elsewhere = endpoint or source.mirror
        self.endpoint = (elsewhere or os.environ.get("HF_ENDPOINT") or PUBLIC_ENDPOINT).rstrip("/")
        # A token of this server is for the hub that this server was set up with.
        self.token = source.token or (None if elsewhere or not own_token else get_token())
        self.transport = transport
        self._attempts = attempts
        if self.token:
            transport.headers["Authorization"] = f"Bearer {self.token}"

    def repository(
        self, repo: str, revision: str = "main", suffixes: tuple[str, ...] = (".gguf",)
    ) -> Repository:
        """Its files of these kinds. Raises: NotFound, HubRefused, DownloadFailed."""
        info = self.ask(
            lambda api: api.model_info(
                repo, revision=revision, files_metadata=True, timeout=LISTING_TIMEOUT_S
            ),
            repo,
        )
        commit = info.sha or revision
        if not _FOLDER.fullmatch(commit):
            raise DownloadFailed(f"{self.endpoint} does not answer as the hub does: commit {commit!r}.")
        page = f"{self.endpoint}/{repo}"
        wanted = [one for one in info.siblings or () if one.rfilename.lower().endswith(suffixes)]
        files = [self.file_of(page, commit, sibling) for sibling in wanted]
        return Repository(
            repo=repo, commit=commit, revision=revision, files=tuple(file for file in files if file)
        )

    def ask(self, question: Callable[[HfApi], Answer], what: str) -> Answer:
        """One question to huggingface_hub, again if the hub is out of order; its errors in our words."""
        import httpx2
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        api = HfApi(endpoint=self.endpoint, token=self.token or False)
        reason = ""
        for attempt in range(self._attempts):
            if attempt:
                self.transport.wait(attempt)
            try:
                return question(api)
            except HfHubHTTPError as error:
                if error.response.status_code < 500 and error.response.status_code != 429:
                    raise self._refused(error, what) from error
                reason = f"it answers {error.response.status_code}"
            except httpx2.TransportError as error:
                reason = str(error) or type(error).__name__
            except (HFValidationError, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise BadRequest(str(error), param="model") from error
            except OfflineModeIsEnabled as error:
                raise DownloadFailed("HF_HUB_OFFLINE is set: nothing is fetched.") from error
            except (ValueError, TypeError, KeyError) as error:  # it answered something that is not the hub's
                raise DownloadFailed(f"{self.endpoint} does not answer as the hub does: {error}.") from error
        raise DownloadFailed(f"{self.endpoint} cannot be asked about {what}: {reason}.")

    def _refused(self, error: Any, what: str) -> Exception:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        if isinstance(error, GatedRepoError):
            return HubRefused(
                f"{what} is gated: accept its terms at {self.endpoint}/{what}, then set HF_TOKEN where the "
                "server runs, or give a token.",
                param="model",
            )
        if isinstance(error, RevisionNotFoundError):
            return NotFound(f"{what} has no such revision.", param="model")
        if isinstance(error, RepositoryNotFoundError):  # the hub does not tell the two apart
            return NotFound(
                f"{self.endpoint} has no repository {what}, or it is private: then set HF_TOKEN where the "
                "server runs, or give a token.",
                param="model",
            )
        return refused(error.response.status_code, what, self.endpoint)

    @staticmethod
    def file_of(page: str, commit: str, sibling: Any) -> RepoFile | None:
        """A file as the hub lists it, of the repository at `page`; None unless it can be checked."""
        path, size = sibling.rfilename, sibling.size
        if size is None:
            return None
        if path.startswith("/") or any(part in {"", ".", ".."} for part in path.split("/")):
            return None
        if sibling.lfs is not None:
            digest, size = f"sha256:{sibling.lfs.sha256}", sibling.lfs.size
        else:
            digest = f"git:{sibling.blob_id}"
        if not _DIGEST.fullmatch(digest):
            return None
        url = f"{page}/resolve/{quote(commit, safe='')}/{quote(path)}"
        remote = RemoteFile(url=url, size=size, digest=digest, label=path)
        return RepoFile(path=path, size=size, remote=remote)


def chosen_of(repository: Repository, name: HubName, machine: Machine) -> Choice:
    """What to fetch of a repository. Raises: NotFound, BadRequest."""
    variants = variants_of(repository.files)
    if not variants:
        raise NotFound(
            f"{repository.repo} has no GGUF files. Search for a repository that has: `llamaleon search "
            f"{repository.repo.rpartition('/')[2]}`.",
            param="model",
        )
    if name.file is not None:
        for variant in variants:
            if name.file in {file.path for file in variant.files}:
                return chosen(variant, machine)
        raise NotFound(
            f"{repository.repo} has no {name.file}; it has {', '.join(one.path for one in variants)}.",
            param="model",
        )
    if name.quant is not None and name.quant != "latest":  # Ollama's clients append :latest
        return named(variants, name.quant, machine)
    return choose(variants, machine)


def fetch_into_cache(
    repository: Repository, path: str, remote: RemoteFile, transport: Transport, report: Callable[[int], None]
) -> Path:
    """Its path in the snapshot, once it is there. Raises: as `download.fetch`."""
    folder = places.hub_cache() / f"{repository.kind}--{repository.repo.replace('/', '--')}"
    blob = folder / "blobs" / remote.hex
    pointer = folder / "snapshots" / repository.commit / path
    if not pointer.exists():
        if not blob.exists():
            fetch(remote, blob, transport, report)
        _point(pointer, blob)
    _refer(folder, repository)
    return pointer


def _point(pointer: Path, blob: Path) -> None:
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)  # a link to what is gone
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except FileExistsError:  # another process was quicker
        return
    except OSError:  # a disk without links: the hub's own library keeps the file here, too
        blob.replace(pointer)


def _refer(folder: Path, repository: Repository) -> None:
    """Which commit a branch stood at, for programs that look without asking the hub."""
    if repository.revision == repository.commit:
        return
    reference = folder / "refs" / repository.revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    beside = reference.with_name(f"{reference.name}.{os.getpid()}.tmp")
    beside.write_text(repository.commit, encoding="utf-8")
    beside.replace(reference)
