"""Which scope each route needs: one table, and a test that walks every route of the application.

`open` needs no key. `use` is answering and looking; `train` is training data and jobs; `admin` changes what
is served. Each scope may do what those before it may.
"""

from __future__ import annotations

from typing import Literal, get_args

from starlette.routing import Route

Scope = Literal["open", "use", "train", "admin"]
ORDER: tuple[Scope, ...] = get_args(Scope)

ROUTE_SCOPES: dict[str, Scope] = {
    "GET /health": "open",  # for what watches a server: it says nothing about anybody
    "GET /metrics": "use",
    "GET /openapi.json": "use",
    # OpenAI
    "GET /v1/models": "use",
    "GET /v1/models/{name}": "use",
    "DELETE /v1/models/{name}": "admin",
    "POST /v1/chat/completions": "use",
    # What was stored is training data: to list it all takes more than to look at one's own by its id.
    "GET /v1/chat/completions": "train",
    "GET /v1/chat/completions/{completion_id}": "use",
    "POST /v1/chat/completions/{completion_id}": "use",
    "DELETE /v1/chat/completions/{completion_id}": "use",
    "GET /v1/chat/completions/{completion_id}/messages": "use",
    "POST /v1/datasets/stored_completions": "train",
    "POST /v1/completions": "use",
    "POST /v1/embeddings": "use",
    "POST /embedding": "use",
    "POST /embeddings": "use",
    "POST /v1/rerank": "use",
    "POST /v1/reranking": "use",
    "POST /rerank": "use",
    "POST /reranking": "use",
    "POST /v1/batches": "use",
    "GET /v1/batches": "use",
    "GET /v1/batches/{batch_id}": "use",
    "POST /v1/batches/{batch_id}/cancel": "use",
    "POST /v1/conversations": "use",
    "GET /v1/conversations/{conversation_id}": "use",
    "POST /v1/conversations/{conversation_id}": "use",
    "DELETE /v1/conversations/{conversation_id}": "use",
    "GET /v1/conversations/{conversation_id}/items": "use",
    "POST /v1/conversations/{conversation_id}/items": "use",
    "GET /v1/conversations/{conversation_id}/items/{item_id}": "use",
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": "use",
    "POST /v1/responses": "use",
    "POST /v1/responses/input_tokens": "use",
    "GET /v1/responses/{response_id}": "use",
    "DELETE /v1/responses/{response_id}": "use",
    "POST /v1/responses/{response_id}/cancel": "use",
    "GET /v1/responses/{response_id}/input_items": "use",
    # Files for batches. Training data among them needs `train`: see `web/files.py`.
    "POST /v1/files": "use",
    "GET /v1/files": "use",
    "GET /v1/files/{file_id}": "use",
    "DELETE /v1/files/{file_id}": "use",
    "GET /v1/files/{file_id}/content": "use",
    "POST /v1/datasets/hub": "train",
    "POST /v1/datasets/check": "train",
    "POST /v1/fine_tuning/jobs": "train",
    "GET /v1/fine_tuning/jobs": "train",
    "GET /v1/fine_tuning/jobs/{job_id}": "train",
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": "train",
    "POST /v1/fine_tuning/jobs/{job_id}/pause": "train",
    "POST /v1/fine_tuning/jobs/{job_id}/resume": "train",
    "GET /v1/fine_tuning/jobs/{job_id}/events": "train",
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": "train",
    "GET /v1/fine_tuning/jobs/{job_id}/report": "train",
    "POST /v1/evaluations": "train",
    # Anthropic
    "POST /v1/messages": "use",
    "POST /v1/messages/count_tokens": "use",
    "GET /v1/messages/batches": "use",
    "POST /v1/messages/batches": "use",
    "GET /v1/messages/batches/{rest}": "use",
    "POST /v1/messages/batches/{rest}": "use",
    "DELETE /v1/messages/batches/{rest}": "use",
    # Ollama
    "GET /": "open",
    "GET /api/version": "open",
    "POST /api/chat": "use",
    "POST /api/generate": "use",
    "POST /api/embed": "use",
    "POST /api/embeddings": "use",
    "GET /api/tags": "use",
    "POST /api/show": "use",
    "GET /api/ps": "use",
    "POST /api/copy": "admin",
    "DELETE /api/delete": "admin",
    "POST /api/create": "admin",
    "HEAD /api/blobs/{digest}": "admin",
    "POST /api/blobs/{digest}": "admin",
    "POST /api/pull": "admin",
    "POST /api/push": "admin",
    # Made models
    "POST /llamaleon/models": "admin",
    "POST /llamaleon/copy": "admin",
    # llama-server
    "GET /v1/health": "open",
    "GET /models": "use",
    "POST /chat/completions": "use",
    "POST /chat/completions/input_tokens": "use",
    "POST /v1/chat/completions/input_tokens": "use",
    "POST /responses": "use",
    "POST /responses/input_tokens": "use",
    "POST /completion": "use",
    "POST /completions": "use",
    "POST /infill": "use",
    "POST /tokenize": "use",
    "POST /detokenize": "use",
    "POST /apply-template": "use",
    "GET /props": "use",
    "GET /lora-adapters": "use",
    "POST /lora-adapters": "use",
    # vLLM
    "GET /tokenizer_info": "use",
    "POST /v1/load_lora_adapter": "admin",
    "POST /v1/unload_lora_adapter": "admin",
    # Our own
    "GET /llamaleon/adapters": "use",
    "POST /llamaleon/adapters/{name}/pin": "admin",
    "POST /llamaleon/adapters/{name}/unpin": "admin",
    "POST /llamaleon/adapters/{name}/promote": "admin",
    "POST /llamaleon/adapters/{name}/rollback": "admin",
    "GET /llamaleon/adapters/{name}/versions": "use",
    "POST /llamaleon/bases": "admin",
    "DELETE /llamaleon/bases/{name}": "admin",
    "POST /llamaleon/unload": "admin",
    "POST /llamaleon/pull": "admin",
    "POST /llamaleon/pull_adapter": "admin",
    "POST /llamaleon/push": "admin",
    "GET /llamaleon/search": "use",
    "GET /llamaleon/models/{name}": "use",
    "GET /llamaleon/ps": "use",
}


def names_of(route: Route) -> list[str]:
    """As the table writes them: `GET /v1/models/{name}`."""
    path = route.path.replace(":path}", "}")
    methods = sorted((route.methods or set()) - {"HEAD"}) or ["HEAD"]  # which comes with every GET
    return [f"{method} {path}" for method in methods]


def scope_of(route: Route) -> Scope:
    """The highest that one of its methods needs; `admin` for a route that nobody has thought about."""
    needed = [ROUTE_SCOPES.get(name, "admin") for name in names_of(route)]
    return max(needed, key=ORDER.index)
