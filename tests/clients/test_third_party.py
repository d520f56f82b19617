"""Clients of others, unmodified, each through its scripted steps against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.clients.servers import CLIENTS, NotInstalled, both_servers, run_client


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with both_servers(tmp_path_factory.mktemp("third")) as variables:
        yield variables


@pytest.mark.parametrize("name", CLIENTS)
def test_every_step_of(name: str, servers: dict[str, str]) -> None:
    try:
        report = run_client(name, servers)
    except NotInstalled as reason:
        if name != "openai (Node.js)":  # that one needs what `make setup` cannot bring
            raise
        pytest.skip(str(reason))
    failed = {step.name: step.detail for step in report.steps if step.result == "failed"}
    assert not failed, "\n".join(f"== {step}\n{detail}" for step, detail in failed.items())
    assert len(report.steps) >= 4
