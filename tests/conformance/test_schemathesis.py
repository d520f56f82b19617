"""The server keeps to its own OpenAPI document, as schemathesis sees it: what is sent and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as openapi
from tests.api import CHATML
from tests.conformance.malformed import ServingProcess
from tests.conformance.nowhere import nowhere
from tests.server import RunningServer
from tests.unit.server.registry.small import write_base

from llamaleon_server.app import ROUTES
from llamaleon_server.web.openapi import document

schema = schemathesis.openapi.from_dict(document(ROUTES))
CHECKS = [
    not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
    openapi.response_headers_conformance,
    openapi.negative_data_rejection,
    openapi.unsupported_method,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("schemathesis")
    base = write_base(folder / "tiny.gguf", template=CHATML)
    with nowhere(), ServingProcess(folder / "home", base) as running:
        yield running


@schema.parametrize()
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_what_the_document_says(case: Case[Any], server: RunningServer) -> None:
    # A pull that finds nothing in the outside world is a 502, and rightly so.
    outside = case.path.endswith(("/pull", "/pull_adapter", "/push"))
    checks = [check for check in CHECKS if not (outside and check is not_a_server_error)]
    case.call_and_validate(base_url=server.url, checks=checks)
