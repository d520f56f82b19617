"""An adapter on the Hugging Face hub: its PEFT directory, its GGUF and a model card, in one commit."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from msgspec import Struct

from llamaleon_server.errors import BadRequest, DownloadFailed, HubRefused, NotFound, UploadFailed
from llamaleon_server.hub.card import Card, hub_id, rendered
from llamaleon_server.hub.download import Transport
from llamaleon_server.hub.huggingface import PUBLIC_ENDPOINT, Hub
from llamaleon_server.hub.progress import PUBLIC, Source
from llamaleon_server.registry.records import AdapterVersion
from llamaleon_server.registry.registry import Registry

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi

CARD = "README.md"
PEFT_CONFIG = "adapter_config.json"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Published(Struct, frozen=True, kw_only=True):
    """Where it lies now. `commit` is the hub's name of this state of the repository."""

    id: str  # of the version that was pushed
    repo: str
    url: str
    commit: str
    files: list[str]


class Wish(Struct, frozen=True, kw_only=True):
    """What the user says about the repository. `base_model`: the base's id on the hub."""

    repo: str
    private: bool = False
    license: str | None = None
    base_model: str | None = None
    revision: str = "main"
    message: str | None = None


def publish(registry: Registry, version: AdapterVersion, wish: Wish, source: Source = PUBLIC) -> Published:
    """Blocks for as long as the upload takes.

    Raises:
        BadRequest: `repo` is no OWNER/NAME.
        HubRefused: there is no token, or the hub does not let it write there.
        UploadFailed: the hub could not be reached, or failed.
    """
    if not _NAME.fullmatch(wish.repo):
        raise BadRequest(f"{wish.repo!r} is no repository of the hub: write OWNER/NAME.", param="repo")
    hub = Hub(source, Transport(headers={}, stop=threading.Event()), attempts=1)
    if not hub.token:
        raise HubRefused(
            "The hub wants to know who writes: set HF_TOKEN where the server runs, or give a token.",
            param="token",
        )
    with ExitStack() as open_files:
        contents = _contents(registry, version, wish)
        operations = _operations(contents, hub, open_files)
        commit = _upload(hub, wish, operations, wish.message or f"Add {version.full_name}")
    return Published(
        id=version.full_name,
        repo=wish.repo,
        url=f"{hub.endpoint}/{wish.repo}",
        commit=str(commit.oid),
        files=sorted(contents),
    )


def _upload(hub: Hub, wish: Wish, operations: Sequence[CommitOperationAdd], message: str) -> CommitInfo:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # they would go to the server's log

    def work(api: HfApi) -> CommitInfo:
        api.create_repo(wish.repo, private=wish.private, exist_ok=True)
        return api.create_commit(
            wish.repo,
            operations,
            commit_message=message,
            revision=wish.revision,
            commit_description=f"With llamaleon {version_of('llamaleon')}.",
        )

    try:
        return hub.ask(work, wish.repo)
    except (HubRefused, NotFound) as error:
        said = getattr(error.__cause__, "server_message", None) or "it may not write there"
        raise HubRefused(
            f"{hub.endpoint} does not let this token write to {wish.repo}: {said}.", param="repo"
        ) from error
    except DownloadFailed as error:
        raise UploadFailed(error.message) from error
    except RuntimeError as error:  # huggingface_hub's own of a file that did not arrive
        reason = str(error.__cause__ or error)
        raise UploadFailed(f"{hub.endpoint} did not take the files of {wish.repo}: {reason}") from error


def _operations(
    contents: Mapping[str, Path | bytes], hub: Hub, open_files: ExitStack
) -> list[CommitOperationAdd]:
    """Open files go over plain HTTP: the protocol that paths would take (Xet) is the public hub's alone."""
    from huggingface_hub import CommitOperationAdd

    made = []
    for name, content in contents.items():
        data: Path | bytes | BinaryIO = content
        if isinstance(content, Path) and hub.endpoint != PUBLIC_ENDPOINT:
            data = open_files.enter_context(content.open("rb"))
        made.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=data))
    return made


def _contents(registry: Registry, version: AdapterVersion, wish: Wish) -> dict[str, Path | bytes]:
    """Every file of the repository, by its name there."""
    found: dict[str, Path | bytes] = {f"{version.adapter}.gguf": version.path}
    peft = version.directory / "peft"
    base_model = wish.base_model or hub_id(version.base)
    if peft.is_dir():
        found |= {
            path.name: path for path in sorted(peft.iterdir()) if path.is_file() and path.suffix != ".md"
        }
    if PEFT_CONFIG in found:
        found[PEFT_CONFIG] = _config(peft / PEFT_CONFIG, base_model or version.base)
    card = Card(
        name=version.adapter,
        repo=wish.repo,
        base=version.base,
        base_model=base_model,
        manifest=version.manifest,
        files=list(found),
        license=wish.license,
        rows=_rows(registry, version),
    )
    found[CARD] = rendered(card).encode()
    return found


def _config(path: Path, base_model: str) -> bytes:
    """peft's configuration, with the base by its public name: here it is a path on this disk."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_model
    return json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"


def _rows(registry: Registry, version: AdapterVersion) -> dict[str, int]:
    """How many rows the job had that made it; nothing if it was not made here."""
    job = version.manifest.training.get("job")
    if not isinstance(job, str):
        return {}
    for event in registry.jobs.all_events(job):
        if "train_rows" in event.data and "valid_rows" in event.data:
            return {"trained on": int(event.data["train_rows"]), "held out": int(event.data["valid_rows"])}
    return {}
