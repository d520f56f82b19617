"""`eval` and `report`, over a fake server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer, running

from llamaleon_clients.figures import difference, interval, job_table


def metric(value: float, low: float, high: float, **differences: Any) -> dict[str, Any]:
    figures = {"model": {"value": value, "low": low, "high": high, "rows": 10}}
    return {"unit": "share", "better": "higher", "rule": "", "figures": figures, "differences": differences}


RESULT = {
    "model": "nano",
    "against": None,
    "shots": 0,
    "rows": 10,
    "metrics": {"exact_match": metric(0.5, 0.2366, 0.7634), "valid_json": metric(1.0, 0.7225, 1.0)},
    "fields": [{"field": "cliente", "wanted": 9, "model": {"precision": 1.0, "recall": 0.5, "f1": 0.6667}}],
    "trained_on": [{"adapter": "nano+poeta@1", "rows": 3, "lines": [4, 5, 6]}],
}


class Evaluating(FakeServer):
    """What was asked, and the events that answer."""

    def routes(self) -> list[Route]:
        return [
            Route("/v1/evaluations", self.evaluate, methods=["POST"]),
            Route("/v1/fine_tuning/jobs/{job}/report", self.report),
            Route("/v1/files/{file}", self.remove, methods=["DELETE"]),
            *super().routes(),
        ]

    async def evaluate(self, request: Request) -> Response:
        self.requests.append(("POST", "evaluation", await request.json()))

        async def events() -> AsyncIterator[bytes]:
            for event in ({"type": "progress", "done": 1, "total": 20}, {"type": "result", "result": RESULT}):
                yield f"data: {json.dumps(event)}\n\n".encode()
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def report(self, request: Request) -> Response:
        return HTMLResponse(f"<p>¡{request.path_params['job']}! {request.query_params['lang']}</p>")

    async def remove(self, request: Request) -> Response:
        self.requests.append(("DELETE", "file", request.path_params["file"]))
        return Response(b"{}", media_type="application/json")


@pytest.fixture
def evaluating() -> Iterator[Evaluating]:
    with running(Evaluating()) as fake:
        assert isinstance(fake, Evaluating)
        yield fake


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "filas.jsonl"
    path.write_text('{"prompt": "¿?", "completion": "ñ"}\n', "utf-8")
    return path


def body_of(server: FakeServer) -> dict[str, Any]:
    return dict(next(body for _, kind, body in server.requests if kind == "evaluation"))


def test_a_table_with_intervals(llamaleon: Llamaleon, evaluating: Evaluating, rows: Path) -> None:
    result = llamaleon("eval", "nano", str(rows), "--url", evaluating.url)

    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["10", "rows", "nano", "95%"] in lines
    assert ["exact", "match", "50.0%", "23.7%", "to", "76.3%"] in lines
    assert ["cliente", "100.0%", "50.0%", "66.7%"] in lines
    assert "nano+poeta@1 was trained on 3 of these rows (line 4 ...)" in result.stderr
    assert evaluating.uploads == [rows.read_bytes()]
    assert ("DELETE", "file", "file-1") in evaluating.requests, "the file was only lent"


def test_what_was_asked_is_sent(llamaleon: Llamaleon, evaluating: Evaluating, rows: Path) -> None:
    options = "--metrics accuracy,loss --few-shot 3 --rows 9 --answers 8 --against nano"
    result = llamaleon(
        "eval", "nano", str(rows), *options.split(), "--examples", str(rows), "--url", evaluating.url
    )

    assert result.exit_code == 0, result.output
    assert body_of(evaluating) == {
        "model": "nano",
        "against": "nano",
        "file": "file-1",
        "examples_file": "file-2",
        "few_shot": 3,
        "metrics": ["accuracy", "loss"],
        "loss_rows": 9,
        "generated_rows": 8,
        "answers": False,
        "stream": True,
    }


def test_json_is_the_servers_answer(llamaleon: Llamaleon, evaluating: Evaluating, rows: Path) -> None:
    result = llamaleon("eval", "nano", str(rows), "--json", "--url", evaluating.url)
    assert json.loads(result.stdout) == RESULT
    assert body_of(evaluating)["answers"] is True


def test_a_file_that_is_not_there(llamaleon: Llamaleon, evaluating: Evaluating) -> None:
    result = llamaleon("eval", "nano", "nada.jsonl", "--url", evaluating.url)
    assert result.exit_code == 1
    assert "nada.jsonl does not exist" in result.stderr
    assert evaluating.requests == []


@pytest.mark.parametrize("language", ["en", "es"])
def test_the_report_is_saved_in_the_users_language(
    llamaleon: Llamaleon,
    evaluating: Evaluating,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    language: str,
) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", language)
    evaluating.jobs["ftjob-7"] = {"id": "ftjob-7", "status": "succeeded"}
    path = tmp_path / "informe.html"
    result = llamaleon("report", "ftjob-7", "-o", str(path), "--url", evaluating.url)
    assert result.exit_code == 0, result.output
    assert path.read_text("utf-8") == f"<p>¡ftjob-7! {language}</p>"
    assert str(path) in result.stdout


def test_the_table_after_a_training_has_examples_and_differences() -> None:
    over = {"base": {"value": 0.4, "low": -0.1, "high": 0.6}}
    evaluation = {
        "rows": 9,
        "metrics": {"accuracy": {"differences": over}},
        "base": {"loss": 2.0, "accuracy": 0.5},
        "few_shot": {"loss": None, "accuracy": 0.7, "shots": 4},
        "adapter": {"loss": 1.0, "accuracy": 0.9},
    }
    made = job_table(evaluation)
    assert [column.header for column in made.columns] == [
        "9 held-out rows",
        "base",
        "4 examples",
        "adapter",
        "difference",
    ]
    rows = list(zip(*(list(column.cells) for column in made.columns), strict=True))
    assert rows == [
        ("loss", "2.0000", "-", "1.0000", ""),
        ("accuracy", "50.0%", "70.0%", "90.0%", "+40.0 (chance?)"),
    ]


def test_a_difference_says_when_it_may_be_chance() -> None:
    assert difference("accuracy", {"value": 0.4, "low": 0.2, "high": 0.6}) == "+40.0"
    assert difference("accuracy", {"value": -0.4, "low": -0.9, "high": 0.1}) == "-40.0 (chance?)"
    assert difference("loss", {"value": -1.25, "low": -1.5, "high": -1.0}) == "-1.2500"
    assert difference("perplexity", {"value": -13444.94, "low": -2e4, "high": -1e4}) == "-13,444.9"
    assert difference("loss", None) == ""
    assert interval("loss", {"value": 1.0, "low": 0.5, "high": 1.5}) == "0.5000 to 1.5000"
    assert interval("loss", {"value": 1.0}) == ""
