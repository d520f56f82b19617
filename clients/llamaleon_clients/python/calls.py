"""Every request of the client, once: both clients send these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from llamaleon_clients.python.records import Adapter, Event, Job, Json, Model, Resident

Value = TypeVar("Value")


@dataclass(frozen=True)
class Call(Generic[Value]):
    """`read` makes the value of the answer's JSON; of an answer that is text, of {"text": ...}."""

    method: str
    path: str
    read: Callable[[Any], Value]
    json: Json | None = None
    params: Json = field(default_factory=dict)


def segment(name: str) -> str:
    """A name as one path segment: bases may contain `/` and `:`."""
    return quote(name, safe="")


def present(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def _nothing(_: Any) -> None:
    return None


# ---------------------------------------------------------------- models


def models() -> Call[list[Model]]:
    return Call("GET", "/v1/models", lambda body: [Model.of(item) for item in body["data"]])


def model(name: str) -> Call[Model]:
    return Call("GET", f"/v1/models/{segment(name)}", Model.of)


def add_base(path: Path, name: str | None) -> Call[str]:
    body = present(path=str(path.expanduser().absolute()), name=name)
    return Call("POST", "/llamaleon/bases", lambda answer: str(answer["name"]), json=body)


def remove_base(name: str) -> Call[None]:
    return Call("DELETE", f"/llamaleon/bases/{segment(name)}", _nothing)


def residents() -> Call[list[Resident]]:
    return Call("GET", "/llamaleon/ps", lambda body: [Resident.of(item) for item in body["data"]])


def unload(name: str) -> Call[None]:
    return Call("POST", "/llamaleon/unload", _nothing, json={"model": name})


# ---------------------------------------------------------------- adapters


def adapters() -> Call[list[str]]:
    """Names that can be asked for: `BASE+ADAPTER`."""
    return Call("GET", "/v1/models", lambda body: [item["id"] for item in body["data"] if item.get("parent")])


def adapter(name: str) -> Call[Adapter]:
    return Call("GET", f"/llamaleon/models/{segment(name)}", Adapter.of)


def load_adapter(name: str, path: Path, base: str | None, replace: bool) -> Call[None]:
    body = present(
        lora_name=name,
        lora_path=str(path.expanduser().absolute()),
        base_model_name=base,
        load_inplace=replace or None,
    )
    return Call("POST", "/v1/load_lora_adapter", _nothing, json=body)


def delete_adapter(name: str) -> Call[None]:
    return Call("POST", "/v1/unload_lora_adapter", _nothing, json={"lora_name": name})


def pin(name: str) -> Call[None]:
    return Call("POST", f"/llamaleon/adapters/{segment(name)}/pin", _nothing)


def unpin(name: str) -> Call[None]:
    return Call("POST", f"/llamaleon/adapters/{segment(name)}/unpin", _nothing)


# ---------------------------------------------------------------- training


def create_job(body: Json) -> Call[Job]:
    return Call("POST", "/v1/fine_tuning/jobs", Job.of, json=body)


def job_body(
    *,
    base: str,
    name: str,
    training_file: str,
    validation_file: str | None,
    seed: int | None,
    hyperparameters: Json,
) -> Json:
    body = present(
        model=base, suffix=name, training_file=training_file, validation_file=validation_file, seed=seed
    )
    if hyperparameters:
        body["method"] = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    return body


def job(job_id: str) -> Call[Job]:
    return Call("GET", f"/v1/fine_tuning/jobs/{segment(job_id)}", Job.of)


def jobs(limit: int) -> Call[list[Job]]:
    return Call(
        "GET",
        "/v1/fine_tuning/jobs",
        lambda body: [Job.of(item) for item in body["data"]],
        params={"limit": limit},
    )


def cancel_job(job_id: str) -> Call[Job]:
    return Call("POST", f"/v1/fine_tuning/jobs/{segment(job_id)}/cancel", Job.of)


@dataclass(frozen=True)
class EventPage:
    """Newest first, as the server lists them."""

    events: list[Event]
    has_more: bool


def events(job_id: str, after: str | None) -> Call[EventPage]:
    return Call(
        "GET",
        f"/v1/fine_tuning/jobs/{segment(job_id)}/events",
        lambda body: EventPage([Event.of(item) for item in body["data"]], body["has_more"]),
        params=present(limit=100, after=after),
    )


# ---------------------------------------------------------------- evaluation


def greedy(model_name: str, messages: list[Json], max_tokens: int) -> Call[str]:
    body = {"model": model_name, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
    return Call(
        "POST",
        "/v1/chat/completions",
        lambda answer: str(answer["choices"][0]["message"]["content"] or ""),
        json=body,
    )
