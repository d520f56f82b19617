from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.unit.clients.fake_server import FakeServer, Json

from llamaleon_clients import demo, measure
from llamaleon_clients.api import Client
from llamaleon_clients.errors import BadInput
from llamaleon_clients.measure import Example, is_exact, is_valid_json, read_examples, score

EXPECTED = '{"cliente": "Peña", "gasto_eur": 3}'


@pytest.mark.parametrize(
    ("answer", "exact", "valid"),
    [
        (EXPECTED, True, True),
        (f" {EXPECTED}\n", True, True),
        ('{"cliente": "Pena", "gasto_eur": 3}', False, True),
        ('{"gasto_eur": 3, "cliente": "Peña"}', False, True),
        ('{"cliente": "Peña"}', False, False),
        ('{"cliente": "Peña", "gasto_eur": 3, "otro": 1}', False, False),
        ('["cliente", "gasto_eur"]', False, False),
        ('{"cliente": "Peña", "gasto', False, False),
        ("", False, False),
    ],
)
def test_what_counts(answer: str, exact: bool, valid: bool) -> None:
    assert (is_exact(answer, EXPECTED), is_valid_json(answer, EXPECTED)) == (exact, valid)


def test_score_counts_and_asks_eight_at_a_time(server: FakeServer) -> None:
    right = {f"informe {number}" for number in range(0, 30, 3)}
    active, most, lock = 0, 0, threading.Lock()

    def reply(body: Json) -> str:
        return EXPECTED if body["messages"][-1]["content"] in right else "¿Qué?"

    class Counting(Client):
        def chat(self, model: str, messages: list[Json], **sampling: object) -> str:
            nonlocal active, most
            with lock:
                active += 1
                most = max(most, active)
            try:
                return super().chat(model, messages, **sampling)
            finally:
                with lock:
                    active -= 1

    server.reply = reply
    examples = [Example([{"role": "user", "content": f"informe {n}"}], EXPECTED) for n in range(30)]
    heard: list[int] = []
    with Counting(server.url) as client:
        result = score(client, "nano", examples, on_answer=heard.append)

    assert (result.rows, result.exact, result.valid) == (30, 10, 10)
    assert heard == list(range(1, 31))
    assert 1 < most <= measure.CONCURRENCY
    assert {request[2]["temperature"] for request in server.requests} == {0}


def test_the_shipped_rows_read_and_do_not_overlap() -> None:
    train = read_examples(demo.DATA / "reports_train.jsonl")
    heldout = read_examples(demo.DATA / "reports_heldout.jsonl")

    assert (len(train), len(heldout)) == (400, 100)
    assert not {example.question for example in train} & {example.question for example in heldout}
    assert all(is_valid_json(example.expected, example.expected) for example in train + heldout)


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = '{"messages": [{"role": "user", "content": "a\u2028b\u0085"}, {"content": "sí"}]}'
    path.write_text(f"{row}\r\n\n{row}\n", "utf-8")

    assert [one.question for one in read_examples(path)] == ["a\u2028b\u0085"] * 2


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Is a directory"):
        read_examples(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(b"\xff")
    with pytest.raises(BadInput, match="line 1"):
        read_examples(tmp_path / "rows.jsonl")


def test_a_bad_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}\n{"messages": []}\n')

    with pytest.raises(BadInput, match=r"rows\.jsonl, line 2"):
        read_examples(path)
