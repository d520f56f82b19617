"""Several models on the same rows as one result: which figures apply, and what is compared with what."""

from __future__ import annotations

import pytest

from llamaleon_server.evaluation.comparing import answered, compare
from llamaleon_server.evaluation.measure import Cost, Measured
from llamaleon_server.evaluation.rows import EvaluationRow, Scored

WANTED = '{"cliente": "Ñu", "horas": 3}'


def rows(references: list[str | None]) -> list[EvaluationRow]:
    return [
        EvaluationRow(at + 1, [1, 2], [0.0, 1.0], 1, reference) for at, reference in enumerate(references)
    ]


def model(count: int, loss: float, answers: dict[int, str] | None = None, shots: int = 0) -> Measured:
    costs = {} if shots else {at: Cost(loss * (at + 1), at + 1.0) for at in range(count)}
    return Measured(costs, answers or {}, shots=shots)


def test_json_has_fields_and_no_bleu() -> None:
    data = rows([WANTED] * 10)
    right = dict.fromkeys(range(10), '{"horas": 3.0, "cliente": "Ñu"}')
    wrong = {**right, **dict.fromkeys(range(5), "no")}
    found = compare(data, {"base": model(10, 2.0, wrong), "adapter": model(10, 1.0, right)}, "adapter")
    assert (found["kind"], found["main"]) == ("json", "field_f1")
    assert list(found["metrics"]) == [
        "loss", "perplexity", "exact_match", "valid_json", "json_equal", "field_f1",
    ]  # fmt: skip
    assert (found["base"]["valid_json"], found["adapter"]["json_equal"]) == (0.5, 1.0)
    assert found["adapter"]["exact_match"] == 0.0, "the text is another"
    assert found["base"]["field_f1"] == pytest.approx(2 * 10 / 30)
    cliente = found["fields"][0]
    assert (cliente["field"], cliente["wanted"]) == ("cliente", 10)
    assert cliente["base"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}


def test_perplexity_is_that_of_all_tokens_not_a_mean_of_rows() -> None:
    measured = Measured({0: Cost(1.0, 1.0), 1: Cost(0.0, 9.0)}, {})
    found = compare(rows([None, None]), {"adapter": measured}, "adapter")
    assert found["adapter"]["loss"] == pytest.approx(0.1)
    assert found["adapter"]["perplexity"] == pytest.approx(1.1051709)
    assert (found["kind"], found["main"]) == ("none", "loss")


def test_free_text_has_overlaps() -> None:
    data = rows([f"el informe {at} está listo" for at in range(6)])
    said = {at: f"el informe {at} está casi listo" for at in range(6)}
    found = compare(data, {"adapter": model(6, 1.0, said)}, "adapter")
    assert (found["kind"], found["main"]) == ("text", "chrf")
    assert {"bleu", "chrf", "rouge_1", "rouge_l"} <= found["metrics"].keys()
    assert found["adapter"]["rouge_l"] == pytest.approx(2 * 5 / 11)
    assert found["metrics"]["chrf"]["figures"]["adapter"]["low"] <= found["adapter"]["chrf"]


def test_differences_are_of_the_rows_of_both() -> None:
    data = rows(["sí", "no"] * 5)
    right = {at: data[at].reference or "" for at in range(10)}
    behind = dict.fromkeys(range(4), "no")  # the others had no room for examples
    models = {"few_shot": model(10, 1.0, behind, shots=2), "adapter": model(10, 1.0, right)}
    found = compare(data, models, "adapter")
    accuracy = found["metrics"]["accuracy"]
    assert (accuracy["figures"]["few_shot"]["rows"], accuracy["figures"]["adapter"]["rows"]) == (4, 10)
    assert accuracy["differences"]["few_shot"]["rows"] == 4
    assert accuracy["differences"]["few_shot"]["value"] == 0.5
    assert "few_shot" not in found["metrics"]["loss"]["figures"]
    assert (found["few_shot"]["shots"], found["few_shot"]["rows"], found["few_shot"]["loss"]) == (2, 4, None)


def test_losses_in_other_tokens_are_not_subtracted() -> None:
    """Nats per token of two vocabularies: the one with the longer tokens would look worse for that alone."""
    data = rows(["sí", "no"] * 5)
    said = {at: data[at].reference or "" for at in range(10)}
    coarse = Measured({at: Cost(3.0, 1.0) for at in range(10)}, said)
    found = compare(data, {"model": model(10, 1.0, said), "against": coarse}, "model")
    assert found["metrics"]["loss"]["figures"].keys() == {"model", "against"}
    assert found["metrics"]["loss"]["differences"] == found["metrics"]["perplexity"]["differences"] == {}
    assert found["metrics"]["accuracy"]["differences"]["against"]["value"] == 0.0


def test_pairs_are_told_by_which_answer_is_likelier_per_token() -> None:
    data = [EvaluationRow(at, [1], [1.0], 1, "a b", rejected=Scored([1], [1.0], 1)) for at in range(4)]
    costs = {at: Cost(4.0, 4.0) for at in range(4)}
    rejected = {0: Cost(3.0, 1.0), 1: Cost(3.0, 1.0), 2: Cost(3.0, 1.0), 3: Cost(0.5, 1.0)}
    found = compare(data, {"adapter": Measured(costs, {}, rejected)}, "adapter")
    assert found["adapter"]["preference"] == 0.75
    assert found["main"] == "preference"


def test_rows_keep_what_every_model_made_of_them() -> None:
    data = rows([WANTED, WANTED, None])
    models = {"base": model(3, 2.0, {0: "no"}), "adapter": model(3, 1.0, {0: WANTED})}
    kept = answered(data, models, "json")
    assert [row.line for row in kept] == [1, 2, 3]
    assert kept[0].scores == {"base": 0.0, "adapter": 1.0}
    assert (kept[1].answers, kept[1].losses) == ({}, {"base": 2.0, "adapter": 1.0})
