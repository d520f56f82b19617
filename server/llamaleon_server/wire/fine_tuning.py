"""OpenAI's fine-tuning requests, parsed and checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.hyperparameters import parse_hyperparameters
from llamaleon_trainer.job import REPORTERS, Wandb
from llamaleon_trainer.rows import check_template

MAX_SEED = 2_147_483_647
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
MAX_TAGS, MAX_TAG = 32, 256
METHODS = ("supervised", "dpo")
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
    # Ours.
    "deploy",
    "text_template",
}


class CreateJob(Struct, frozen=True, kw_only=True):
    """A request that is well formed; whether model and files exist is not known yet."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    method: str = "supervised"
    hyperparameters: dict[str, Any] = {}
    integrations: list[dict[str, Any]] = []
    metadata: dict[str, str] | None = None
    text_template: str | None = None
    deploy: bool = True


def parse_create(body: bytes) -> CreateJob:
    """Raises: BadRequest naming the field."""
    value = decode(body, dict[str, Any])
    for key in value:
        if key not in KNOWN:
            raise BadRequest(f"Unknown field `{key}`: expected {', '.join(sorted(KNOWN))}.", param=key)
    method, hyperparameters = _method(value)
    return CreateJob(
        model=_text(value, "model"),
        training_file=_text(value, "training_file"),
        validation_file=_optional_text(value, "validation_file"),
        suffix=_optional_text(value, "suffix"),
        seed=_seed(value.get("seed")),
        method=method,
        hyperparameters=hyperparameters,
        integrations=_integrations(value.get("integrations")),
        metadata=_metadata(value.get("metadata")),
        text_template=_template(value),
        deploy=_deploy(value.get("deploy")),
    )


def _method(value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Its name and hyperparameters; those may stand in the deprecated place at the top, not in both."""
    method = value.get("method")
    at_top = value.get("hyperparameters")
    if method is None:
        return "supervised", parse_hyperparameters(at_top, "hyperparameters")
    if not isinstance(method, dict):
        raise BadRequest("`method` must be an object.", param="method")
    kind = method.get("type", "supervised")
    if kind == "reinforcement":
        raise BadRequest(
            "`method.type` `reinforcement` is not supported: this server has no graders. Train on answers "
            "that a grader of yours has chosen (`supervised`), or on pairs of better and worse ones (`dpo`).",
            param="method.type",
        )
    if kind not in METHODS:
        raise BadRequest(
            f"`method.type` {kind!r} is not supported: use `supervised` or `dpo`.", param="method.type"
        )
    for key in method:
        if key not in {"type", kind}:
            raise BadRequest(f"Unknown field `method.{key}` of a {kind} method.", param=f"method.{key}")
    settings = method.get(kind) or {}
    if not isinstance(settings, dict):
        raise BadRequest(f"`method.{kind}` must be an object.", param=f"method.{kind}")
    for key in settings:
        if key != "hyperparameters":
            raise BadRequest(f"Unknown field `method.{kind}.{key}`.", param=f"method.{kind}.{key}")
    given = settings.get("hyperparameters")
    if at_top and given and at_top != given:
        raise BadRequest(
            f"`hyperparameters` (deprecated) and `method.{kind}.hyperparameters` differ: give the latter.",
            param="hyperparameters",
        )
    if given:
        return kind, parse_hyperparameters(given, f"method.{kind}.hyperparameters", kind)
    return kind, parse_hyperparameters(at_top, "hyperparameters", kind)


def _integrations(value: Any) -> list[dict[str, Any]]:
    """OpenAI's `wandb`, and ours: `tensorboard`, which has no settings. Each at most once."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest("`integrations` must be a list.", param="integrations")
    found: list[dict[str, Any]] = []
    for number, item in enumerate(value):
        where = f"integrations[{number}]"
        kind = item.get("type") if isinstance(item, dict) else None
        if kind not in REPORTERS:
            raise BadRequest(f"`{where}.type` must be one of {', '.join(REPORTERS)}.", param=f"{where}.type")
        if any(other["type"] == kind for other in found):
            raise BadRequest(f"`{where}`: {kind} is asked for twice.", param=where)
        for key in item:
            if key not in {"type", kind} or (key == "tensorboard" and item[key]):
                raise BadRequest(f"Unknown field `{where}.{key}`.", param=f"{where}.{key}")
        found.append({"type": "wandb", "wandb": _wandb(item, where)} if kind == "wandb" else {"type": kind})
    return found


def _wandb(item: dict[str, Any], where: str) -> dict[str, Any]:
    where = f"{where}.wandb"
    try:
        settings = msgspec.convert(item.get("wandb"), Wandb)
    except msgspec.ValidationError as error:
        raise BadRequest(f"`{where}`: {error}.", param=where) from error
    if not settings.project:
        raise BadRequest(f"`{where}.project` must not be empty.", param=f"{where}.project")
    if len(settings.tags) > MAX_TAGS or any(len(tag) > MAX_TAG for tag in settings.tags):
        raise BadRequest(
            f"`{where}.tags`: at most {MAX_TAGS} of at most {MAX_TAG} characters.", param=f"{where}.tags"
        )
    return msgspec.structs.asdict(settings)


def _template(value: dict[str, Any]) -> str | None:
    template = _optional_text(value, "text_template")
    if template is not None:
        try:
            check_template(template)
        except ValueError as error:
            raise BadRequest(f"`text_template`: {error}.", param="text_template") from error
    return template


def _deploy(value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise BadRequest("`deploy` must be true or false.", param="deploy")
    return value is not False


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
