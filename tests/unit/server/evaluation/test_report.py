"""The page of a job: what is drawn, what is marked, and which rows are shown."""

from __future__ import annotations

from llamaleon_server.evaluation.advice import Training
from llamaleon_server.evaluation.comparing import answered, compare
from llamaleon_server.evaluation.curves import curves, nice_ticks
from llamaleon_server.evaluation.differences import Piece, marked
from llamaleon_server.evaluation.figures import examples, parts_of, worse
from llamaleon_server.evaluation.measure import Cost, Measured
from llamaleon_server.evaluation.report import Told, page
from llamaleon_server.evaluation.rows import EvaluationRow
from llamaleon_server.registry.jobstore import JobRecord

LABELS = ["urgente", "spam", "ventas"]


def rows(count: int) -> list[EvaluationRow]:
    return [EvaluationRow(at + 1, [1, 2], [0.0, 1.0], 1, LABELS[at % 3], f"¿{at}?") for at in range(count)]


def model(answers: list[str], loss: float, shots: int = 0) -> Measured:
    costs = {at: Cost(loss * 10, 10.0) for at in range(len(answers))}
    return Measured(costs, dict(enumerate(answers)), shots=shots)


def record(evaluation: dict[str, object]) -> JobRecord:
    return JobRecord(
        id="ftjob-1",
        created_at=1,
        model="tiny",
        base="tiny",
        adapter="tickets",
        suffix="tickets",
        training_file="file-1",
        validation_file=None,
        seed=1,
        status="succeeded",
        evaluation=evaluation,
        parity={"mean_kl": 1e-6, "gate": 1e-5},
    )


def test_the_whole_page() -> None:
    data = rows(12)
    right = [row.reference or "" for row in data]
    spoilt = ["spam" if at == 3 else answer for at, answer in enumerate(right)]
    models = {"base": model(["no sé"] * 3 + right[3:4] + ["no sé"] * 8, 2.0), "adapter": model(spoilt, 0.5)}
    evaluation = compare(data, models, "adapter")
    assert evaluation["kind"] == "labels"
    told = Told(
        record(evaluation),
        Training([(1, 2.0), (2, 1.0)], [(2, 1.5)], 100, 12),
        answered(data, models, "labels"),
        "ft:tiny:local:tickets:1",
    )
    made = page(told)
    for text in (
        "Deployed",
        "91.7%",  # 11 of 12
        "95%: 64.6% to 98.5%",  # Wilson
        "Right label (rows) and answer (columns)",
        "(none of them)",
        "In 1 of 12 rows the adapter&#39;s answer is worse than the base&#39;s (another label).",
        "Better than the base",
        "Served as trained",
    ):
        assert text in made, text
    assert made.count("<svg") == 1


def test_rows_that_got_worse_come_first_worst_first() -> None:
    data = [EvaluationRow(at, [1], [1.0], 1, "el informe está listo", "?") for at in range(1, 4)]
    models = {
        "base": model(["el informe está listo"] * 3, 2.0),
        "adapter": model(["el informe está", "nada", "el informe está listo"], 2.5),
    }
    kept = answered(data, models, "text")
    parts = parts_of({"base": {}, "adapter": {}})
    found = worse(kept, parts, "text")
    assert [row["line"] for row in found["rows"]] == [2, 1]
    assert "In 2 of 3 rows" in found["told"]
    assert "less likely in 3 of 3" in found["told"]
    assert len(examples(kept, parts)) == 3


def test_differences_are_marked_where_the_two_are_alike() -> None:
    assert marked('{"a": 5, "b": 1}', '{"a": 6, "b": 1}') == [
        Piece("same", '{"a": '),
        Piece("wrong", "5"),
        Piece("missing", "6"),
        Piece("same", ', "b": 1}'),
    ]
    assert marked("Claro, aquí tienes", "urgente") == [Piece("same", "Claro, aquí tienes")]
    assert "more characters" in marked("x " * 5000, "x")[0].text


def test_curves_reach_all_that_is_drawn() -> None:
    steps = [(float(step), 3.0 / step) for step in range(1, 1001)]
    drawn = curves(steps, [(500.0, 0.1), (1000.0, 0.2)])
    assert drawn is not None
    assert len(drawn.training.split()) <= 400
    assert [dot.best for dot in drawn.dots] == [True, False]
    for point in (drawn.training + " " + drawn.held_out).split():
        x, y = map(float, point.split(","))
        assert drawn.left <= x <= drawn.right
        assert drawn.top <= y <= drawn.bottom
    assert curves([], []) is None
    assert curves([(1.0, float("nan"))], []) is None
    assert curves([(1.0, 2.0)], []) is not None, "one step is a drawing, too"


def test_ticks_are_round_and_enclose() -> None:
    for low, high in ((0.31, 2.2), (0.0, 0.0), (1.999, 2.001), (1e-6, 3e-6), (0, 12345)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 12
