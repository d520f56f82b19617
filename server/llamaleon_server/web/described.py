"""A route that says what goes in and comes out: the OpenAPI document is made of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from starlette.routing import Route

NOTHING = ""  # the media type of an answer without a body


class Described(Route):
    """Starlette's route, with the types of its body and of its answer (any that msgspec knows).

    Args:
        body: of the JSON body, which may be left out if `optional`.
        form: of the fields of a multipart form, in which bytes are a file.
        answer: of the JSON answer; None where there is no body or it is no JSON.
        media: of an answer that is no JSON; `NOTHING` for one without a body.
        events: of the data of server-sent events, where the route may stream those.
        lines: of a line of NDJSON, where it may stream those.
        query: a Struct whose fields are the query parameters.
        status: of success; 400 and more for a route that only says why it refuses.
        upload: the body may be large: the route itself limits it, not `--max-body`.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: Collection[str],
        body: Any = None,
        optional: bool = False,
        form: Any = None,
        answer: Any = None,
        media: str | None = None,
        events: Any = None,
        lines: Any = None,
        query: Any = None,
        status: int = 200,
        upload: bool = False,
    ) -> None:
        super().__init__(path, endpoint, methods=methods)
        self.body = body
        self.optional = optional
        self.form = form
        self.answer = answer
        self.media = media
        self.events = events
        self.lines = lines
        self.query = query
        self.status = status
        self.upload = upload
