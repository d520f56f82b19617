"""Data sets of the Hugging Face hub: fetched into its cache, and made one file of JSON lines."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from msgspec import Struct

from llamaleon_server.errors import BadRequest, DownloadFailed, LlamaleonError, NotFound, TooLarge
from llamaleon_server.hub.dataset_files import CONVERTED, REPO, DatasetName, files_of
from llamaleon_server.hub.download import Transport
from llamaleon_server.hub.huggingface import LISTING_TIMEOUT_S, Hub, Repository, fetch_into_cache
from llamaleon_server.hub.progress import Source
from llamaleon_server.registry.files import FINE_TUNE, FileStore, StoredFile
from llamaleon_trainer.records import Problem, read_records


class FetchedDataset(Struct, frozen=True, kw_only=True):
    """`left_out`: columns with what is no text, such as pictures."""

    file: StoredFile
    rows: int
    left_out: list[str]


def fetch_dataset(
    files: FileStore,
    name: DatasetName,
    *,
    source: Source,
    own_token: bool,
    max_bytes: int,
    stop: threading.Event,
) -> FetchedDataset:
    """Blocks for as long as the hub takes. `max_bytes`: of what is fetched, and of the file that it becomes.

    Raises:
        NotFound: no such data set, config or split; HubRefused: it is gated or private.
        BadRequest: no file of it can be read, or a row of one cannot.
        DownloadFailed, StorageFull, TooLarge, Stopped.
    """
    transport = Transport(headers={"User-Agent": f"llamaleon/{version('llamaleon')}"}, stop=stop)
    hub = Hub(source, transport, own_token=own_token)
    try:
        repository, paths = _found(hub, name)
    except LlamaleonError as error:
        if error.param == "model":  # what the hub refuses is a model elsewhere
            error.param = "name"
        raise
    listed = {file.path: file for file in repository.files}
    size = sum(listed[path].size for path in paths)
    if size > max_bytes:
        raise TooLarge(
            f"The split {name.split!r} of {name.repo} has {size / 1e6:,.0f} MB; this server takes files of "
            f"at most {max_bytes / 1e6:,.0f} MB.",
            param="name",
        )
    local = []
    for path in paths:
        remote = listed[path].remote
        assert remote is not None  # the hub listed it
        local.append((path, fetch_into_cache(repository, path, remote, transport, lambda _: None)))
    return _written(files, name, local, max_bytes)


def _found(hub: Hub, name: DatasetName) -> tuple[Repository, list[str]]:
    """The repository as it is, or else as the hub converted it."""
    repository, card = _listing(hub, name.repo, name.revision or "main")
    paths = files_of(name, [file.path for file in repository.files], card)
    if paths or name.revision is not None:
        if not paths:
            raise BadRequest(f"{name.repo} has no file that can be read at {name.revision}.", param="name")
        return repository, paths
    try:
        repository, _ = _listing(hub, name.repo, CONVERTED)
    except NotFound as error:
        raise BadRequest(
            f"{name.repo} has no Parquet, JSON or CSV files, and the hub has converted none.", param="name"
        ) from error
    converted = DatasetName(repo=name.repo, config=name.config, revision=CONVERTED, split=name.split)
    paths = files_of(converted, [file.path for file in repository.files], {})
    if not paths:
        raise BadRequest(f"{name.repo} has no Parquet, JSON or CSV files.", param="name")
    return repository, paths


def _listing(hub: Hub, repo: str, revision: str) -> tuple[Repository, Mapping[str, Any]]:
    info = hub.ask(
        lambda api: api.dataset_info(repo, revision=revision, files_metadata=True, timeout=LISTING_TIMEOUT_S),
        f"datasets/{repo}",
    )
    commit = info.sha or revision
    if not commit.isalnum():
        raise DownloadFailed(f"{hub.endpoint} does not answer as the hub does: commit {commit!r}.")
    # The hub knows some data sets by a new name; what it calls them itself becomes a folder.
    known = info.id if info.id and REPO.fullmatch(info.id) else repo
    page = f"{hub.endpoint}/datasets/{known}"
    listed = [hub.file_of(page, commit, sibling) for sibling in info.siblings or ()]
    card = {} if info.card_data is None else vars(info.card_data)
    repository = Repository(
        repo=known,
        commit=commit,
        revision=revision,
        files=tuple(file for file in listed if file is not None),
        kind="datasets",
    )
    return repository, card


def _written(
    files: FileStore, name: DatasetName, local: list[tuple[str, Path]], max_bytes: int
) -> FetchedDataset:
    upload = files.upload(max_bytes)
    left_out: set[str] = set()
    rows = 0
    try:
        for path, place in local:
            for value in _values(path, place):
                row = _texts_of(value, left_out)
                upload.write(json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
                rows += 1
        if rows == 0:
            raise BadRequest(f"{name.repo} has no rows in its split {name.split!r}.", param="name")
        filename = "-".join([*name.repo.split("/"), *filter(None, [name.config]), name.split]) + ".jsonl"
        stored = upload.commit(filename, FINE_TUNE)
    except BaseException:
        upload.abort()
        raise
    return FetchedDataset(file=stored, rows=rows, left_out=sorted(left_out))


def _values(path: str, place: Path) -> Iterator[Any]:
    for item in read_records(place, path):
        if isinstance(item, Problem):
            raise BadRequest(f"{path}, line {item.line}: {item.reason}", param="name")
        yield item.value


def _texts_of(value: Any, left_out: set[str]) -> Any:
    """A row without its columns of bytes, which JSON has no place for."""
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, one in value.items():
        if _has_bytes(one):
            left_out.add(key)
        else:
            kept[key] = one
    return kept


def _has_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_bytes, value.values()))
    if isinstance(value, list):
        return any(map(_has_bytes, value))
    return isinstance(value, bytes)
