"""The fields of an upload and of a listing's query."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llamaleon_server.errors import BadRequest

UPLOAD_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MOST_LISTED = 10_000
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 2_592_000
FORM_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


def check_purpose(fields: Mapping[str, str]) -> str:
    """Raises: BadRequest naming `purpose`."""
    purpose = fields.get("purpose")
    if purpose not in UPLOAD_PURPOSES:
        given = "is missing" if purpose is None else f"cannot be {purpose!r}"
        raise BadRequest(f"`purpose` {given}: use one of {', '.join(UPLOAD_PURPOSES)}.", param="purpose")
    return purpose


def expiry_s(fields: Mapping[str, str]) -> int | None:
    """Seconds after which the file goes, if asked for. Raises: BadRequest."""
    anchor = fields.get("expires_after[anchor]")
    given = fields.get("expires_after[seconds]")
    if anchor is None and given is None:
        return None
    if anchor != "created_at":
        raise BadRequest("`expires_after[anchor]` must be `created_at`.", param="expires_after[anchor]")
    if given is None or not re.fullmatch(r"\d{1,9}", given) or not MIN_EXPIRY_S <= int(given) <= MAX_EXPIRY_S:
        raise BadRequest(
            f"`expires_after[seconds]` must be a whole number from {MIN_EXPIRY_S} to {MAX_EXPIRY_S}.",
            param="expires_after[seconds]",
        )
    return int(given)


def query_limit(query: Mapping[str, str], default: int, most: int) -> int:
    """Raises: BadRequest naming `limit`."""
    given = query.get("limit")
    if given is None:
        return default
    if not re.fullmatch(r"\d{1,9}", given) or not 1 <= int(given) <= most:
        raise BadRequest(f"`limit` must be a whole number from 1 to {most}.", param="limit")
    return int(given)


def query_descending(query: Mapping[str, str]) -> bool:
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise BadRequest("`order` must be `asc` or `desc`.", param="order")
    return order == "desc"


def files_limit(query: Mapping[str, str]) -> int:
    return query_limit(query, MOST_LISTED, MOST_LISTED)
