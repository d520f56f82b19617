"""Ollama's native API, under `/api`."""

from __future__ import annotations

from llamaleon_server.web.ollama import answer, blobs, create, embed, models, pull, root

routes = [
    *root.routes,
    *answer.routes,
    *embed.routes,
    *models.routes,
    *create.routes,
    *blobs.routes,
    *pull.routes,
]
