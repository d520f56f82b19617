"""The shapes of answers that are made as plain objects (`web/objects.py`), for the OpenAPI document.

That they are what is sent is tested: `tests/conformance` checks every answer against the document.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from llamaleon_server.wire.files import MAX_EXPIRY_S, MIN_EXPIRY_S, MOST_LISTED

Text = Annotated[str, Meta(min_length=1)]
Page = Annotated[int, Meta(ge=1, le=1000)]


class Health(Struct, frozen=True, kw_only=True):
    status: Literal["ok"]
    loaded: list[str]


class Deleted(Struct, frozen=True, kw_only=True):
    id: str
    object: str
    deleted: bool


class Unloaded(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"]
    unloaded: bool


class Model(Struct, frozen=True, kw_only=True):
    """OpenAI's model object with vLLM's `root` and `parent`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    kind: Literal["base", "adapter", "made"]
    parent: str | None
    version: int | None
    versions: list[int]
    fine_tuned_model: str | None
    chat_template: Literal["fallback", "model"]
    bytes: int | None
    missing: bool


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[Model]


class File(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: str | None


class FileList(Struct, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileForm(Struct, frozen=True, kw_only=True):
    file: bytes
    purpose: Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
    anchor: Literal["created_at"] | None = field(name="expires_after[anchor]", default=None)
    seconds: Annotated[int, Meta(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)] | None = field(
        name="expires_after[seconds]", default=None
    )


class FileQuery(Struct, frozen=True, kw_only=True):
    purpose: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED)] = MOST_LISTED
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class PageQuery(Struct, frozen=True, kw_only=True):
    after: str | None = None
    limit: Page = 20


class JobError(Struct, frozen=True, kw_only=True):
    code: str
    message: str
    param: str | None


class Job(Struct, frozen=True, kw_only=True):
    """OpenAI's fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled", "paused"]
    hyperparameters: dict[str, Any]
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: JobError | None
    seed: int
    integrations: list[dict[str, Any]] | None
    estimated_finish: int | None
    method: dict[str, Any]
    metadata: dict[str, str] | None
    deploy: bool


class JobList(Struct, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[Job]
    has_more: bool


class JobEvent(Struct, frozen=True, kw_only=True):
    object: Literal["fine_tuning.job.event"]
    id: str
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class JobEventList(Struct, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[JobEvent]
    has_more: bool


class Checkpoint(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, float]


class CheckpointList(Struct, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[Checkpoint]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Adapter(Struct, frozen=True, kw_only=True):
    """One version, `serving` if its bare name means it; what could not become one: `id` null, a `reason`."""

    id: str | None
    object: Literal["adapter"]
    name: str
    state: str
    path: str
    reason: str | None = None
    base: str | None = None
    version: int | None = None
    serving: bool = False
    pinned: bool = False
    sha256: str | None = None
    rank: int | None = None
    source: Any = None
    ft_name: str | None = None
    created: int | None = None


class AdapterList(Struct, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[Adapter]


class RolledBack(Adapter, frozen=True, kw_only=True):
    """The version that serves again."""

    rolled_back_from: int


class Deployment(Struct, frozen=True, kw_only=True):
    """When a version became the served one. `withdrawn`: when a rollback took it back."""

    version: int
    deployed: int
    withdrawn: int | None


class VersionList(Struct, frozen=True, kw_only=True):
    object: Literal["list"]
    id: str
    data: list[Adapter]
    deployments: list[Deployment]


class Unpinned(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["adapter"]
    pinned: Literal[False]


class ShownList(Struct, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[dict[str, Any]]


class CreateJobBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As `wire/fine_tuning.py` reads it."""

    model: Text
    training_file: Text
    validation_file: str | None = None
    suffix: str | None = None
    seed: Annotated[int, Meta(ge=0, le=2_147_483_647)] | None = None
    method: dict[str, Any] | None = None
    hyperparameters: dict[str, Any] | None = None
    integrations: list[Any] | None = None
    metadata: dict[str, str] | None = None
    deploy: bool | None = None
    text_template: str | None = None
