"""Result files: the metrics of every step as CSV, the evaluation as JSON, and the report as HTML."""

from __future__ import annotations

import csv
import hashlib
import io

import msgspec

from llamaleon_server.evaluation.report import report_page
from llamaleon_server.evaluation.words import Words, own_language
from llamaleon_server.jobs.finish import refusal
from llamaleon_server.registry.files import RESULTS
from llamaleon_server.registry.jobstore import FAILED, SUCCEEDED, JobError, JobRecord
from llamaleon_server.registry.registry import Registry

COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_accuracy",
    "valid_loss": "valid_loss",
    "valid_accuracy": "valid_mean_token_accuracy",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens_per_s": "tokens_per_s",
}


def step_metrics(registry: Registry, job_id: str) -> str:
    """One line a step; the held-out figures stand in the line of the step they were taken after."""
    steps: dict[int, dict[str, object]] = {}
    for event in registry.jobs.all_events(job_id, type="metrics"):
        row = steps.setdefault(int(event.data["step"]), {})
        row.update({name: event.data[key] for key, name in COLUMNS.items() if key in event.data})
    out = io.StringIO()
    writer = csv.DictWriter(out, list(COLUMNS.values()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps[step] for step in sorted(steps))
    return out.getvalue()


def write_results(registry: Registry, record: JobRecord, ft_name: str) -> list[str]:
    """Ids of the files. They follow from the job: writing again after a crash replaces the files. Blocks."""
    report = {
        "job": record.id,
        "base": record.base,
        "fine_tuned_model": ft_name,
        "hyperparameters": record.resolved,
        "parity": record.parity,
        "evaluation": record.evaluation,
    }
    words = Words(own_language())
    contents = {
        "step_metrics.csv": step_metrics(registry, record.id).encode(),
        "evaluation.json": msgspec.json.format(msgspec.json.encode(report)),
        "report.html": report_page(registry.jobs, _as_it_ends(record), ft_name, words).encode(),
    }
    return [
        registry.files.put(name, RESULTS, data, file_id=_file_id(record.id, name)).id
        for name, data in contents.items()
    ]


def _as_it_ends(record: JobRecord) -> JobRecord:
    """The files are written just before the job has ended; the report says how it has."""
    failure = refusal(record.parity, record.evaluation, record.resolved)
    if failure is None:
        return msgspec.structs.replace(record, status=SUCCEEDED)
    return msgspec.structs.replace(record, status=FAILED, error=JobError(failure.code, failure.message))


def _file_id(job_id: str, name: str) -> str:
    return f"file-{hashlib.sha256(f'{job_id}/{name}'.encode()).hexdigest()[:24]}"
