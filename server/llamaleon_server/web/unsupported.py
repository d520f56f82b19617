"""OpenAI's endpoints that this server does not have, and why: what a client is told instead of "unknown URL".

The status is 404. 501 would say it as well, but clients repeat what fails with 5xx, and this never helps.
"""

from __future__ import annotations

from collections.abc import Mapping

CODE = "unsupported_endpoint"

_WORDS = "this server answers with text only"
_NO_STORE = "this server has no vector stores: `/v1/embeddings` and `/v1/rerank` are there to build on"
_NO_AGENTS = "this server runs no agents or tools itself: use `/v1/responses` with function tools"
_NO_TENANTS = "this server has no organizations: `llamaleon keys` manages who may do what"
_WEBHOOKS = "webhooks are for who runs the server to set: `llamaleon serve --webhook-url URL`"
_NO_CALLS = "this server has no sessions of speech: use `/v1/responses`, streamed"

# What `/v1/` is followed by, `*` being any name; whatever is below belongs to it.
ENDPOINTS: Mapping[str, str] = {
    "agents": _NO_AGENTS,
    "assistants": "OpenAI's assistants gave way to `/v1/responses` and `/v1/conversations`, which are here",
    "audio": f"{_WORDS}: no speech, transcription or translation",
    "chatkit": _NO_AGENTS,
    "containers": _NO_AGENTS,
    "content_provenance_checks": "this server makes no media whose origin could be checked",
    "decisions": _NO_AGENTS,
    "evals": "use `/v1/evaluations`: any model on the rows of a file, in one request",
    "fine_tuning/alpha": "graders belong to reinforcement training, which this server does not do",
    "fine_tuning/checkpoints": "whoever may use this server may use its checkpoints",
    "images": f"{_WORDS}: it makes and edits no images. Models with a projector read them in chats",
    "live": _NO_CALLS,
    "moderations": "this server has no moderation model",
    "organization": _NO_TENANTS,
    "projects": _NO_TENANTS,
    "realtime": _NO_CALLS,
    "responses/compact": 'conversations are not compacted: `truncation: "auto"` drops the oldest turns',
    "safety": _NO_TENANTS,
    "skills": _NO_AGENTS,
    "threads": "OpenAI's assistants gave way to `/v1/responses` and `/v1/conversations`, which are here",
    "uploads": "upload in one piece to `/v1/files`: there is no limit of time",
    "vaults": _NO_AGENTS,
    "vector_stores": _NO_STORE,
    "videos": f"{_WORDS}: it makes no videos",
    "webhook_endpoints": _WEBHOOKS,
    "webhook_event_types": _WEBHOOKS,
}


def why_not(path: str) -> str | None:
    """Why there is no such endpoint, if it is one of OpenAI's. `path` as the request has it."""
    _, found, rest = path.partition("/v1/")
    parts = rest.split("/")
    for endpoint, reason in ENDPOINTS.items():
        wanted = endpoint.split("/")
        if found and len(parts) >= len(wanted) and all(map(_fits, wanted, parts)):
            return f"{path} is not supported: {reason}."
    return None


def _fits(wanted: str, part: str) -> bool:
    return wanted in {part, "*"}
