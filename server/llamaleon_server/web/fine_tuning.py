"""`/v1/fine_tuning/jobs`, as OpenAI specifies it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llamaleon_server.registry.jobstore import JobRecord
from llamaleon_server.web.described import Described
from llamaleon_server.web.objects import checkpoint_object, event_object, job_object
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.files import query_limit
from llamaleon_server.wire.fine_tuning import metadata_filter, page_object, parse_create
from llamaleon_server.wire.shown import CheckpointList, CreateJobBody, Job, JobEventList, JobList, PageQuery

MOST_LISTED = 1000


def _job(request: Request, record: JobRecord) -> Response:
    return JSONResponse(job_object(record, services_of(request).settings.organization))


async def create(request: Request) -> Response:
    return _job(request, services_of(request).jobs.create(parse_create(await request.body())))


async def index(request: Request) -> Response:
    wanted = metadata_filter(request.query_params)

    def keep(record: JobRecord) -> bool:
        held = record.metadata or {}
        return not held if wanted is None else all(held.get(key) == text for key, text in wanted.items())

    page, has_more = services_of(request).jobs.store.page(
        after=request.query_params.get("after"),
        limit=query_limit(request.query_params, 20, MOST_LISTED),
        keep=keep,
    )
    organization = services_of(request).settings.organization
    return JSONResponse(page_object([job_object(record, organization) for record in page], has_more))


async def retrieve(request: Request) -> Response:
    return _job(request, services_of(request).jobs.store.get(request.path_params["job_id"]))


async def cancel(request: Request) -> Response:
    return _job(request, services_of(request).jobs.cancel(request.path_params["job_id"]))


async def pause(request: Request) -> Response:
    return _job(request, services_of(request).jobs.pause(request.path_params["job_id"]))


async def resume(request: Request) -> Response:
    return _job(request, services_of(request).jobs.resume(request.path_params["job_id"]))


async def events(request: Request) -> Response:
    page, has_more = services_of(request).jobs.store.events(
        request.path_params["job_id"],
        after=request.query_params.get("after"),
        limit=query_limit(request.query_params, 20, MOST_LISTED),
    )
    return JSONResponse(page_object([event_object(event) for event in page], has_more))


async def checkpoints(request: Request) -> Response:
    page, has_more = services_of(request).jobs.store.checkpoints(
        request.path_params["job_id"],
        after=request.query_params.get("after"),
        limit=query_limit(request.query_params, 10, MOST_LISTED),
    )
    return JSONResponse(page_object([checkpoint_object(point) for point in page], has_more, ids=True))


routes = [
    Described("/v1/fine_tuning/jobs", create, methods=["POST"], body=CreateJobBody, answer=Job),
    Described("/v1/fine_tuning/jobs", index, methods=["GET"], query=PageQuery, answer=JobList),
    Described("/v1/fine_tuning/jobs/{job_id}", retrieve, methods=["GET"], answer=Job),
    Described("/v1/fine_tuning/jobs/{job_id}/cancel", cancel, methods=["POST"], answer=Job),
    Described("/v1/fine_tuning/jobs/{job_id}/pause", pause, methods=["POST"], answer=Job),
    Described("/v1/fine_tuning/jobs/{job_id}/resume", resume, methods=["POST"], answer=Job),
    Described(
        "/v1/fine_tuning/jobs/{job_id}/events", events, methods=["GET"], query=PageQuery, answer=JobEventList
    ),
    Described(
        "/v1/fine_tuning/jobs/{job_id}/checkpoints",
        checkpoints,
        methods=["GET"],
        query=PageQuery,
        answer=CheckpointList,
    ),
]
