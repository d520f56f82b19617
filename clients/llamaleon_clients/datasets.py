"""Rows to hand in: a local file is uploaded, a data set of the hub is fetched by the server."""

from __future__ import annotations

import re
from pathlib import Path

from llamaleon_clients.api import Client, Json
from llamaleon_clients.console import note
from llamaleon_clients.session import existing
from llamaleon_clients.words import say

HUB_PREFIXES = ("hf:", "hf://", "https://huggingface.co/datasets/", "https://hf.co/datasets/")
_BARE = re.compile(r"\w[\w-]*/\w[\w.-]*(?:@[\w./-]+)?(?::\w[\w.-]*)?", re.ASCII)
_FILE = re.compile(r"\.(?:jsonl|ndjson|json|csv|tsv|txt|parquet|ya?ml)$", re.IGNORECASE)


def is_hub_id(data: str | Path) -> bool:
    """Whether `data` names a data set of the hub: hf:OWNER/NAME, or OWNER/NAME where no such file is."""
    text = str(data)
    if text.startswith(HUB_PREFIXES):
        return True
    return bool(_BARE.fullmatch(text)) and not _FILE.search(text) and not Path(text).exists()


def is_uploaded(data: str | Path) -> bool:
    """Whether `data` is the id of a file that the server has."""
    return bool(re.fullmatch(r"file-[0-9a-f]+", str(data))) and not Path(data).exists()


def require(data: str | Path, what: str) -> None:
    """Raises: BadInput where `data` must be a local file and is none."""
    if not is_hub_id(data) and not is_uploaded(data):
        existing(Path(data).expanduser(), what)


def hand_in(client: Client, data: str | Path, what: str | None = None) -> Json:
    """The server's file object of these rows.

    Raises:
        BadInput: there is no such file; `what`, in the user's language, says what was looked for.
    """
    if is_uploaded(data):
        return {"id": str(data)}
    if not is_hub_id(data):
        path = Path(data).expanduser()
        return client.upload(existing(path, what or say("The training file")))
    note(say("Fetching {name} from the hub.", name=data))
    file = client.hub_dataset(str(data))
    if file["left_out_columns"]:
        columns = ", ".join(file["left_out_columns"])
        note(say("Columns that are no text were left out: {columns}.", columns=columns))
    note(say("{rows} rows.", rows=file["rows"]))
    return file
