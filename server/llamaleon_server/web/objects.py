"""Records of the registry as the JSON objects that clients see."""

from __future__ import annotations

from typing import Any

from llamaleon_server.registry.files import StoredFile
from llamaleon_server.registry.jobstore import JobCheckpoint, JobEvent, JobRecord
from llamaleon_server.registry.records import AdapterVersion, WatchedFile
from llamaleon_server.wire.hyperparameters import OPENAI_KEYS


def file_object(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created,
        "expires_at": file.expires,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def file_page(files: list[StoredFile], has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [file_object(file) for file in files],
        "first_id": files[0].id if files else None,
        "last_id": files[-1].id if files else None,
        "has_more": has_more,
    }


def adapter_object(version: AdapterVersion, *, pinned: bool, serving: bool) -> dict[str, Any]:
    return {
        "id": version.full_name,
        "object": "adapter",
        "name": version.adapter,
        "base": version.base,
        "version": version.version,
        "state": version.state,
        "reason": version.reason,
        "serving": serving,
        "pinned": pinned,
        "sha256": version.key,
        "rank": version.manifest.rank,
        "source": version.manifest.source,
        "ft_name": version.ft_name,
        "created": version.created,
        "path": str(version.path),
    }


def watched_failure(file: WatchedFile) -> dict[str, Any]:
    """A file of a watched folder that could not become a version."""
    return {
        "id": None,
        "object": "adapter",
        "name": file.name,
        "state": "failed",
        "reason": file.reason,
        "path": str(file.path),
    }


def job_object(job: JobRecord, organization: str) -> dict[str, Any]:
    shown = {**job.requested, **job.resolved}
    for key in OPENAI_KEYS:
        shown.setdefault(key, "auto")
    error = None
    if job.error is not None:
        error = {"code": job.error.code, "message": job.error.message, "param": job.error.param}
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": f"org-{organization}",
        "status": job.status,
        "hyperparameters": {key: shown[key] for key in OPENAI_KEYS},
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": job.result_files,
        "trained_tokens": job.trained_tokens,
        "error": error,
        "seed": job.seed,
        "integrations": job.integrations or None,
        "estimated_finish": job.estimated_finish,
        "method": {"type": job.method, job.method: {"hyperparameters": shown}},
        "metadata": job.metadata,
        "deploy": job.deploy,  # ours
    }


def event_object(event: JobEvent) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event",
        "id": event.id,
        "created_at": event.created_at,
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": event.data,
    }


METRIC_NAMES = {
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "full_valid_loss",
    "valid_accuracy": "full_valid_mean_token_accuracy",
}


def checkpoint_object(checkpoint: JobCheckpoint) -> dict[str, Any]:
    """The held-out figures are over all held-out rows: OpenAI's `full_valid_...`, and `valid_...` alike."""
    metrics: dict[str, float] = {"step": checkpoint.step}
    for ours, name in METRIC_NAMES.items():
        if ours in checkpoint.metrics:
            metrics[name] = checkpoint.metrics[ours]
            if name.startswith("full_"):
                metrics[name.removeprefix("full_")] = checkpoint.metrics[ours]
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.created_at,
        "fine_tuning_job_id": checkpoint.job,
        "fine_tuned_model_checkpoint": checkpoint.ft_name,
        "step_number": checkpoint.step,
        "metrics": metrics,
    }
