"""`/v1/evaluations` over HTTP: figures, examples, progress, refusals; and a job's report as a page."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from tests.api import Api, error_of, events

from llamaleon_server.engine.protocol import Generate
from llamaleon_server.evaluation.rows import Answered, write_answers
from llamaleon_server.registry.jobstore import JobRecord

ROUTE = "/v1/evaluations"
LABELS = ["urgente", "spam"]


def rows(count: int, first: int = 0) -> list[dict[str, str]]:
    return [
        {"prompt": f"ticket {number}: ", "completion": LABELS[number % 2]}
        for number in range(first, first + count)
    ]


def upload(api: Api, data: list[dict[str, Any]], name: str = "eval.jsonl") -> str:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data)
    return api.services.registry.files.put(name, "fine-tune", content.encode()).id


def text_of(message: Generate) -> str:
    assert isinstance(message.prompt, list)
    return "".join(chr(token) for token in message.prompt if token > 31 or token == 10)


async def test_any_model_on_the_rows_of_a_file(api: Api) -> None:
    api.engines.answer = lambda message: "Urgente."
    response = await api.post(ROUTE, model="tiny", file=upload(api, rows(10)), answers=True)
    assert response.status_code == 200, response.text
    found = response.json()
    assert (found["kind"], found["main"], found["rows"]) == ("labels", "accuracy", 10)
    accuracy = found["metrics"]["accuracy"]
    assert accuracy["figures"]["model"]["value"] == 0.5
    assert accuracy["figures"]["model"]["low"] == pytest.approx(0.2366, abs=1e-4)
    assert accuracy["figures"]["model"]["high"] == pytest.approx(0.7634, abs=1e-4)
    assert "at most 60 characters" in accuracy["rule"]
    assert found["metrics"]["exact_match"]["figures"]["model"]["value"] == 0.0
    assert found["metrics"]["loss"]["figures"]["model"]["rows"] == 10
    assert found["labels"] == ["spam", "urgente"]
    assert found["confusion"]["model"]["counts"] == [[0, 5], [0, 5]]
    assert found["answers"][0]["answers"] == {"model": "Urgente."}
    assert found["trained_on"] == []


async def test_only_the_metrics_that_were_asked_for(api: Api) -> None:
    asked = {"model": "tiny", "file": upload(api, rows(6)), "metrics": ["accuracy", "bleu"]}
    found = (await api.post(ROUTE, **asked)).json()
    assert list(found["metrics"]) == ["accuracy"], "BLEU does not apply to labels"
    error = error_of(await api.post(ROUTE, **{**asked, "metrics": ["rouge"]}))
    assert error["param"].startswith("metrics")


async def test_few_shot_shows_other_rows_only(api: Api) -> None:
    def answer(message: Generate) -> str:
        shown, wanted = text_of(message).rsplit("ticket ", 1)
        return LABELS[int(wanted.split(":")[0]) % 2] if shown.strip() else "no sé"

    api.engines.answer = answer
    file, examples = upload(api, rows(8)), upload(api, [*rows(8), *rows(3, first=100)], "train.jsonl")
    response = await api.post(ROUTE, model="tiny", file=file, few_shot=2, examples_file=examples)
    found = response.json()
    assert response.status_code == 200, response.text
    assert found["shots"] == 2
    figures = found["metrics"]["accuracy"]["figures"]
    assert (figures["model"]["value"], figures["few_shot"]["value"]) == (0.0, 1.0)
    difference = found["metrics"]["accuracy"]["differences"]["few_shot"]
    assert difference["value"] == -1.0
    assert difference["high"] < 0
    behind = [text_of(m) for m in api.engines.last.received if isinstance(m, Generate) and m.stop]
    assert len(behind) == 8
    assert all(text.count("ticket 10") == 2 for text in behind), "two examples, of the rows not evaluated"


async def test_few_shot_without_examples_is_refused(api: Api) -> None:
    file = upload(api, rows(6))
    error = error_of(await api.post(ROUTE, model="tiny", file=file, few_shot=2))
    assert error["param"] == "examples_file"
    error = error_of(await api.post(ROUTE, model="tiny", file=file, few_shot=2, examples_file=file))
    assert "show the answer" in error["message"]
    error = error_of(await api.post(ROUTE, model="tiny", file=file, examples_file=file))
    assert error["param"] == "few_shot"


async def test_progress_comes_before_the_result(api: Api) -> None:
    response = await api.post(ROUTE, model="tiny", file=upload(api, rows(5)), stream=True)
    found = events(response)
    assert found[-1] == "[DONE]"
    assert [event["type"] for event in found[:-1]] == ["progress"] * (len(found) - 2) + ["result"]
    assert found[0] == {"type": "progress", "done": 0, "total": 10, "result": None}
    assert found[-2]["result"]["metrics"]["loss"]["figures"]["model"]["rows"] == 5


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"file": "file-none"}, "file"),
        ({"model": "nobody"}, "model"),
        ({"against": "nobody"}, "model"),
        ({"against": "tiny"}, "against"),
        ({"few_shot": -1}, "few_shot"),
        ({"few_shot": 33}, "few_shot"),
        ({"loss_rows": 0, "generated_rows": 0}, "loss_rows"),
    ],
)
async def test_what_cannot_be_used_is_named(api: Api, change: dict[str, Any], param: str) -> None:
    response = await api.post(ROUTE, **{"model": "tiny", "file": upload(api, rows(4)), **change})
    assert 400 <= response.status_code < 500
    assert error_of(response)["param"] == param


async def test_malformed_and_too_long_rows_are_named_by_line(api: Api) -> None:
    bad = upload(api, [*rows(2), {"prompt": 3, "completion": "x"}])
    error = error_of(await api.post(ROUTE, model="tiny", file=bad))
    assert "line 3" in error["message"]
    long = upload(api, [*rows(2), {"prompt": "x" * 5000, "completion": "y"}])
    error = error_of(await api.post(ROUTE, model="tiny", file=long))
    assert "line 3: 500" in error["message"]


# ---------------------------------------------------------------- the report


def record(**more: Any) -> JobRecord:
    fields = {"training_file": "file-1", "validation_file": None, "seed": 1, "created_at": 1, "suffix": None}
    return JobRecord(
        id="ftjob-1", model="tiny", base="tiny", adapter="mi <b>adapter</b>", **{**fields, **more}
    )


async def test_a_report_is_there_while_the_job_runs(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", "en")
    await api.http.get("/health")  # the server has begun, and will not take the job up
    store = api.services.jobs.store
    store.create(record(status="running", stage="train", resolved={"n_epochs": 3}))
    for step in range(1, 4):
        store.add_event("ftjob-1", "", type="metrics", data={"step": step, "train_loss": 2.0 / step})
    response = await api.http.get("/v1/fine_tuning/jobs/ftjob-1/report")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = response.text
    assert '<polyline class="training"' in page
    assert "n_epochs" in page
    assert "Running" in page
    assert "mi &lt;b&gt;adapter&lt;/b&gt;" in page
    assert (await api.http.get("/v1/fine_tuning/jobs/none/report")).status_code == 404


@pytest.mark.parametrize(
    ("query", "accepted", "own", "expected"),
    [
        ("", None, "en", "en"),
        ("", None, "es", "es"),
        ("", "fr", "es", "es"),
        ("", "es-ES,es;q=0.9,en;q=0.8", "en", "es"),
        ("?lang=en", "es", "es", "en"),
        ("?lang=es", "en", "en", "es"),
    ],
)
async def test_a_report_in_the_readers_language(
    api: Api, monkeypatch: pytest.MonkeyPatch, *, query: str, accepted: str | None, own: str, expected: str
) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", own)
    api.services.jobs.store.create(record(status="failed"))
    headers = {} if accepted is None else {"Accept-Language": accepted}
    response = await api.http.get(f"/v1/fine_tuning/jobs/ftjob-1/report{query}", headers=headers)
    assert response.headers["content-language"] == expected
    assert response.headers["vary"] == "Accept-Language"
    assert f'<html lang="{expected}">' in response.text
    assert ("Fallido" in response.text) == (expected == "es")


async def test_a_language_that_no_report_speaks(api: Api) -> None:
    response = await api.http.get("/v1/fine_tuning/jobs/ftjob-1/report?lang=fr")
    assert response.status_code == 400
    assert error_of(response)["param"] == "lang"


async def test_nothing_that_a_model_answered_is_markup(api: Api) -> None:
    store = api.services.jobs.store
    directory = store.directory("ftjob-1")
    directory.mkdir(parents=True)
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    flat = {"loss": 1.0, "rows": 1}
    evaluation = {"rows": 1, "kind": "text", "main": "chrf", "metrics": {}, "base": flat, "adapter": flat}
    store.create(record(status="succeeded", evaluation=evaluation, resolved={bad: bad}))
    row = Answered(line=1, prompt=bad, reference=bad, answers={"base": bad, "adapter": bad + "!"})
    write_answers(directory, [row])
    store.add_event("ftjob-1", bad, level="warn")
    page = (await api.http.get("/v1/fine_tuning/jobs/ftjob-1/report")).text
    assert page.count("&lt;script&gt;") >= 5
    assert "<script" not in page
    assert "<img" not in page


async def test_the_page_needs_no_network(api: Api) -> None:
    api.services.jobs.store.create(record(status="failed"))
    page = (await api.http.get("/v1/fine_tuning/jobs/ftjob-1/report")).text
    for word in ("http://", "https://", "url(", "@import", "<link", "src="):
        assert word not in page


def test_the_names_of_the_metrics_are_the_same_everywhere() -> None:
    from typing import get_args

    from llamaleon_server.evaluation.gate import LOWER_IS_BETTER, SHARES
    from llamaleon_server.evaluation.metrics import METRICS
    from llamaleon_server.wire.evaluations import MetricName
    from llamaleon_server.wire.hyperparameters import GATE_METRICS

    assert set(get_args(MetricName)) == METRICS.keys() == set(GATE_METRICS) - {"none"}
    assert {name for name, metric in METRICS.items() if metric.unit == "share"} == SHARES
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == LOWER_IS_BETTER
    assert msgspec.json.schema(MetricName)
