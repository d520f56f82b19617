"""OpenAI's fine-tuning requests, parsed and checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.hyperparameters import parse_hyperparameters

MAX_SEED = 2_147_483_647
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
KNOWN = {
    "model",
    "training_file",
    "validation_file",
    "suffix",
    "seed",
    "method",
    "hyperparameters",
    "integrations",
    "metadata",
}


class CreateJob(Struct, frozen=True, kw_only=True):
    """A request that is well formed; whether model and files exist is not known yet."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    hyperparameters: dict[str, Any] = {}
    metadata: dict[str, str] | None = None


def parse_create(body: bytes) -> CreateJob:
    """Raises: BadRequest naming the field."""
    value = decode(body, dict[str, Any])
    for key in value:
        if key not in KNOWN:
            raise BadRequest(f"Unknown field `{key}`: expected {', '.join(sorted(KNOWN))}.", param=key)
    if value.get("integrations"):
        raise BadRequest(
            "`integrations` are not supported: the metrics are events, and the result file step_metrics.csv.",
            param="integrations",
        )
    return CreateJob(
        model=_text(value, "model"),
        training_file=_text(value, "training_file"),
        validation_file=_optional_text(value, "validation_file"),
        suffix=_optional_text(value, "suffix"),
        seed=_seed(value.get("seed")),
        hyperparameters=_hyperparameters(value),
        metadata=_metadata(value.get("metadata")),
    )


def _hyperparameters(value: dict[str, Any]) -> dict[str, Any]:
    """From `method`, or from the deprecated place at the top; not from both."""
    method = value.get("method")
    at_top = value.get("hyperparameters")
    if method is None:
        return parse_hyperparameters(at_top, "hyperparameters")
    if not isinstance(method, dict):
        raise BadRequest("`method` must be an object.", param="method")
    kind = method.get("type", "supervised")
    if kind != "supervised":
        raise BadRequest(f"`method.type` {kind!r} is not supported: use `supervised`.", param="method.type")
    for key in method:
        if key not in {"type", "supervised"}:
            raise BadRequest(f"Unknown field `method.{key}`.", param=f"method.{key}")
    supervised = method.get("supervised") or {}
    if not isinstance(supervised, dict):
        raise BadRequest("`method.supervised` must be an object.", param="method.supervised")
    for key in supervised:
        if key != "hyperparameters":
            raise BadRequest(f"Unknown field `method.supervised.{key}`.", param=f"method.supervised.{key}")
    given = supervised.get("hyperparameters")
    if at_top and given and at_top != given:
        raise BadRequest(
            "`hyperparameters` (deprecated) and `method.supervised.hyperparameters` differ: give the latter.",
            param="hyperparameters",
        )
    if given:
        return parse_hyperparameters(given, "method.supervised.hyperparameters")
    return parse_hyperparameters(at_top, "hyperparameters")


def _seed(value: Any) -> int | None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED
    ):
        raise BadRequest(f"`seed` must be a whole number from 0 to {MAX_SEED}.", param="seed")
    return value


def _metadata(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > MAX_METADATA:
        raise BadRequest(f"`metadata` must be an object with at most {MAX_METADATA} keys.", param="metadata")
    for key, text in value.items():
        if len(key) > MAX_METADATA_KEY or not isinstance(text, str) or len(text) > MAX_METADATA_VALUE:
            raise BadRequest(
                f"`metadata.{key}`: keys have at most {MAX_METADATA_KEY} characters, values are texts of at "
                f"most {MAX_METADATA_VALUE}.",
                param=f"metadata.{key}",
            )
    return value


def _text(value: dict[str, Any], field: str) -> str:
    found = _optional_text(value, field)
    if not found:
        raise BadRequest(f"`{field}` is required.", param=field)
    return found


def _optional_text(value: dict[str, Any], field: str) -> str | None:
    found = value.get(field)
    if found is not None and not isinstance(found, str):
        raise BadRequest(f"`{field}` must be a text.", param=field)
    return found


def page_object(items: list[dict[str, Any]], has_more: bool, *, ids: bool = False) -> dict[str, Any]:
    page: dict[str, Any] = {"object": "list", "data": items, "has_more": has_more}
    if ids:
        page["first_id"] = items[0]["id"] if items else None
        page["last_id"] = items[-1]["id"] if items else None
    return page


def metadata_filter(query: Mapping[str, str]) -> dict[str, str] | None:
    """`metadata[k]=v` pairs; None for `metadata=null`, which asks for jobs without any."""
    if query.get("metadata") == "null":
        return None
    return {
        key.removeprefix("metadata[").removesuffix("]"): text
        for key, text in query.items()
        if key.startswith("metadata[") and key.endswith("]")
    }
