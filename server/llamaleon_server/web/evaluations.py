"""`POST /v1/evaluations`: a model on rows; and the report of a fine-tuning job as a page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from llamaleon_server.answers.merge import Begun, begin
from llamaleon_server.errors import BadRequest
from llamaleon_server.evaluation.report import report_page
from llamaleon_server.evaluation.words import Words, accepted_language, own_language
from llamaleon_server.jobs.asked import evaluate_asked
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.services import services_of
from llamaleon_server.web.sse import EventStream
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.evaluations import (
    Evaluation,
    EvaluationEvent,
    EvaluationRequest,
    ReportQuery,
    refuse_unusable,
)

# What models answered stands in the page: nothing in it may run or load anything.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Language",
}


async def evaluate(request: Request) -> Response:
    """Losses, answers and what they are worth, with 95% intervals; streamed, with the progress before."""
    asked = decode(await request.body(), EvaluationRequest)
    refuse_unusable(asked)
    services = services_of(request)
    working = evaluate_asked(services.registry, services.residents, asked)
    begun = await while_connected(request, begin(working))
    if asked.stream:
        return EventStream(_events(begun), begun)
    return json_response(await while_connected(request, _result(begun)))


async def _events(begun: Begun[EvaluationEvent]) -> AsyncGenerator[EvaluationEvent, None]:
    async for event in begun:
        yield event


async def _result(begun: Begun[EvaluationEvent]) -> Evaluation | None:
    async with contextlib.aclosing(begun):
        return [event async for event in begun][-1].result


async def report(request: Request) -> Response:
    """The report of a job as one page that needs no network: figures, curves, answers, advice.

    In English or Spanish: `lang`, else the header `Accept-Language`, else the server's own locale.
    """
    services = services_of(request)
    words = Words(_language(request))
    record = services.jobs.store.get(request.path_params["job_id"])
    model = record.fine_tuned_model or ""
    made = await asyncio.to_thread(report_page, services.jobs.store, record, model, words)
    return HTMLResponse(made, headers={**PAGE_HEADERS, "Content-Language": words.language})


def _language(request: Request) -> str:
    """Raises: BadRequest naming `lang`."""
    try:
        query = msgspec.convert(dict(request.query_params), ReportQuery)
    except msgspec.ValidationError as error:
        raise BadRequest("`lang` must be `en` or `es`.", param="lang") from error
    accepted = accepted_language(request.headers.get("accept-language", ""))
    return query.lang or accepted or own_language()


routes = [
    Described(
        "/v1/evaluations",
        evaluate,
        methods=["POST"],
        body=EvaluationRequest,
        answer=Evaluation,
        events=EvaluationEvent,
    ),
    Described(
        "/v1/fine_tuning/jobs/{job_id}/report", report, methods=["GET"], query=ReportQuery, media="text/html"
    ),
]
