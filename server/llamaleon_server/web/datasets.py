"""`/v1/datasets`: rows fetched from the hub, and rows looked at before anything is trained on them."""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llamaleon_server.errors import BadRequest, NotFound
from llamaleon_server.hub.dataset_files import parse_dataset_name
from llamaleon_server.hub.datasets import FetchedDataset, fetch_dataset
from llamaleon_server.hub.progress import Source
from llamaleon_server.jobs.check import check
from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.registry.files import FINE_TUNE, StoredFile
from llamaleon_server.registry.registry import Registry
from llamaleon_server.web.access import may
from llamaleon_server.web.described import Described
from llamaleon_server.web.disconnect import while_connected
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.objects import file_object
from llamaleon_server.web.services import services_of
from llamaleon_server.wire.datasets import CheckRequest, DatasetCheck, HubFile, HubRequest
from llamaleon_server.wire.decode import decode
from llamaleon_server.wire.hyperparameters import parse_hyperparameters

# Not the default pool's threads: a hub that does not answer must not hold up what writes to the disk.
FETCHES = ThreadPoolExecutor(2, "dataset")


async def fetch(request: Request) -> Response:
    """Fetch a split of a data set of the Hugging Face hub; the answer is the file that it became.

    This server's own token of the hub is used for keys with the scope `admin` only.
    """
    asked = decode(await request.body(), HubRequest)
    fetched = await while_connected(request, _fetched(request, asked))
    return json_response(
        msgspec.convert(
            {**file_object(fetched.file), "rows": fetched.rows, "left_out_columns": fetched.left_out}, HubFile
        )
    )


async def _fetched(request: Request, asked: HubRequest) -> FetchedDataset:
    services, stop = services_of(request), threading.Event()
    work = functools.partial(
        fetch_dataset,
        services.registry.files,
        parse_dataset_name(asked.name),
        source=Source(token=asked.token),
        own_token=may(request, "admin"),
        max_bytes=services.settings.max_upload_bytes,
        stop=stop,
    )
    try:
        return await asyncio.get_running_loop().run_in_executor(FETCHES, work)
    finally:
        stop.set()  # whoever asked has gone


async def look(request: Request) -> Response:
    """Read a training file as a job would: counts, lengths, likenesses, what is malformed. Trains nothing."""
    asked = decode(await request.body(), CheckRequest)
    asked = msgspec.structs.replace(
        asked, hyperparameters=parse_hyperparameters(asked.hyperparameters, "hyperparameters")
    )
    services = services_of(request)
    training = _file(services.registry, asked.training_file, "training_file")
    validation = None
    if asked.validation_file is not None:
        validation = _file(services.registry, asked.validation_file, "validation_file")
    base = None if asked.model is None else services.registry.resolve(asked.model).base
    from llamaleon_trainer.speeds import speeds_path

    speeds = speeds_path(services.jobs.store.directory("any"))
    try:
        found = await while_connected(
            request, check(services.residents, asked, (training, validation), base, speeds)
        )
    except JobFailed as failure:
        raise BadRequest(failure.message, param=failure.param) from failure
    return json_response(found)


def _file(registry: Registry, file_id: str, param: str) -> StoredFile:
    """Raises: BadRequest."""
    try:
        file = registry.files.get(file_id, param)
    except NotFound as error:
        raise BadRequest(f"invalid {param}: {file_id} does not exist.", param=param) from error
    if file.purpose != FINE_TUNE:
        raise BadRequest(
            f"invalid {param}: {file_id} has purpose '{file.purpose}', not '{FINE_TUNE}'.", param=param
        )
    return file


routes = [
    Described("/v1/datasets/hub", fetch, methods=["POST"], body=HubRequest, answer=HubFile),
    Described("/v1/datasets/check", look, methods=["POST"], body=CheckRequest, answer=DatasetCheck),
]
