"""Prometheus reads what we write; labels are bounded; every application counts for itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.api import Api, events, running_api

from llamaleon_server.testing import FakeEngines
from llamaleon_server.web.figures import COUNTERS, GAUGES

ANSWER = "Hola, ¿qué tal?"
CHAT = "/v1/chat/completions"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(api: Api) -> Samples:
    """By name and labels, as a Prometheus server would store it."""
    response = await api.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def of_model(samples: Samples, name: str, model: str = "tiny") -> float:
    return samples[(f"llamaleon_{name}", (("model", model),))]


def http(samples: Samples, method: str, route: str, status: int) -> float:
    labels = (("method", method), ("route", route), ("status", str(status)))
    return samples.get(("llamaleon_http_requests_total", labels), 0.0)


async def test_before_any_model_is_loaded(api: Api) -> None:
    assert not [name for name, labels in await scrape(api) if dict(labels).get("model")]


async def test_an_engine_in_figures(api: Api) -> None:
    await api.chat()
    samples = await scrape(api)
    for figure in GAUGES:
        of_model(samples, figure.name)
    for figure in COUNTERS:
        of_model(samples, f"{figure.name}_total")
    assert of_model(samples, "generated_tokens_total") == len(ANSWER)
    assert of_model(samples, "requests_running") == 0
    assert of_model(samples, "bank_mixing") == 1
    assert of_model(samples, "bank_size_ranks") == 32
    assert not [name for name, _ in samples if name.endswith("_created")]


async def test_latencies_are_of_choices_and_pieces(api: Api) -> None:
    await api.chat()
    events(await api.chat(stream=True, n=2))
    events(await api.complete(stream=True, max_tokens=3))
    samples = await scrape(api)
    assert of_model(samples, "time_to_first_token_seconds_count") == 4
    assert of_model(samples, "request_queue_seconds_count") == 4
    assert of_model(samples, "request_queue_seconds_sum") == pytest.approx(0.004)
    assert of_model(samples, "inter_token_latency_seconds_count") == 3 * (len(ANSWER) - 1) + 2


async def test_the_pause_between_tokens_is_what_is_measured(api: Api) -> None:
    await api.chat()
    api.engines.last.step_s = 0.02
    before = of_model(await scrape(api), "inter_token_latency_seconds_sum")
    await api.complete(max_tokens=6)
    assert of_model(await scrape(api), "inter_token_latency_seconds_sum") - before >= 5 * 0.019


async def test_requests_are_counted_by_route_not_by_name(api: Api) -> None:
    await api.chat()
    await api.chat(model="unknown")
    await api.http.get("/v1/models/tiny")
    await api.http.get("/v1/models/a/b/c")
    await api.http.get("/no/such/thing")
    await api.http.request("BREW", "/v1/models")
    samples = await scrape(api)
    assert http(samples, "POST", CHAT, 200) == 1
    assert http(samples, "POST", CHAT, 404) == 1
    assert http(samples, "GET", "/v1/models/{name}", 200) == 1
    assert http(samples, "GET", "/v1/models/{name}", 404) == 1
    assert http(samples, "GET", "unknown", 404) == 1
    assert http(samples, "other", "/v1/models", 405) == 1
    counted = [name for name, _ in samples if name == "llamaleon_http_request_duration_seconds_count"]
    assert len(counted) == 6, "durations under the same labels"
    assert not [labels for _, labels in samples if "tiny" in dict(labels).get("route", "")]


async def test_a_failure_of_ours_counts_as_500(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: str, lora: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api.services.registry, "resolve", broken)
    assert (await api.chat()).status_code == 500
    assert http(await scrape(api), "POST", CHAT, 500) == 1


async def test_an_engine_that_does_not_answer_is_left_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.chat()
    monkeypatch.setattr("llamaleon_server.residents.residents.STATUS_TIMEOUT_S", 0.05)
    api.engines.last.mute = True
    samples = await scrape(api)
    assert of_model(samples, "time_to_first_token_seconds_count") == 1
    assert ("llamaleon_passes_total", (("model", "tiny"),)) not in samples


async def test_two_applications_in_one_process_count_for_themselves(api: Api, tmp_path: Path) -> None:
    await api.chat()
    async with running_api(tmp_path / "other", engines=FakeEngines()) as other:
        assert http(await scrape(other), "POST", CHAT, 200) == 0
    assert http(await scrape(api), "POST", CHAT, 200) == 1


async def test_every_choice_has_a_line_in_the_debug_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "llamaleon_server.web")
    await api.complete("Hola")
    [line] = [message for message in caplog.messages if "prompt tokens" in message]
    assert line == (
        "tiny: 5 prompt tokens (0 cached), 15 generated (stop); queue 1 ms, prefill 10 ms, decode 100 ms"
    )
