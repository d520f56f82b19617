"""`/v1/datasets/check`: everything that a job would say of its rows, without a job."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from tests.api import Api, error_of

from llamaleon_server.chat.training import training_segments
from llamaleon_server.jobs.measured import histogram
from llamaleon_trainer.estimate import STARTUP_S, Speed
from llamaleon_trainer.job import JobSpec
from llamaleon_trainer.speeds import note_speed, speeds_path

CHANCE = random.Random(1)
WORDS = ["".join(CHANCE.choices("abcdefghijlmnñopqrstuvz", k=7)) for _ in range(300)]


def said(count: int) -> str:
    return " ".join(CHANCE.choices(WORDS, k=count))


def chat(asked: str, answered: str = "sí", **more: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "Sé breve."},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answered},
        ],
        **more,
    }


async def uploaded(api: Api, rows: list[Any], name: str = "filas.jsonl", purpose: str = "fine-tune") -> str:
    data = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    response = await api.http.post("/v1/files", files={"file": (name, data)}, data={"purpose": purpose})
    file_id: str = response.json()["id"]
    return file_id


async def checked(api: Api, rows: list[Any], **more: Any) -> dict[str, Any]:
    response = await api.post("/v1/datasets/check", training_file=await uploaded(api, rows), **more)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def shown(row: list[dict[str, Any]]) -> str:
    return "".join(f"⟦{one['text']}⟧" if one["trained"] else one["text"] for one in row)


async def test_counts_and_lengths_without_a_model(api: Api) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "hora", "arguments": "{}"}}
    several = chat("¿Qué hora es?", "", tools=[{"type": "function", "function": {"name": "hora"}}])
    several["messages"][2] |= {"tool_calls": [call], "weight": 0}
    several["messages"] += [
        {"role": "tool", "content": "10:00", "tool_call_id": "1"},
        {"role": "user", "content": "¿Sí?"},
        {"role": "assistant", "content": "Las diez."},
    ]
    found = await checked(api, [chat("¿a?", "ñ"), several], shown=2)
    assert found["ok"]
    assert found["training"]["roles"] == {"user": 3, "assistant": 3, "system": 2, "tool": 1}
    kinds = {"conversation": 2, "system": 2, "multi_turn": 1, "tools": 1, "weighted": 1}
    assert found["training"]["kinds"] == kinds
    assert (found["lengths"]["unit"], found["lengths"]["learned"]) == (
        "characters",
        len("ñ") + len("Las diez."),
    )
    first, second = (shown(row["pieces"]) for row in found["shown"])
    assert first == "system: Sé breve.\nuser: ¿a?\nassistant: ⟦ñ⟧\n"
    assert "assistant: hora({})\ntool: 10:00" in second
    assert second.endswith("assistant: ⟦Las diez.⟧\n")
    assert (found["limit"], found["cost"], found["validation"]) == (None, None, None)


async def test_with_a_model_rows_are_its_own_tokens(api: Api) -> None:
    found = await checked(api, [chat("¿a?"), chat("¿b?")], model="tiny", shown=1)
    text = (
        "<|im_start|>system\nSé breve.<|im_end|>\n<|im_start|>user\n¿a?<|im_end|>\n<|im_start|>assistant\n"
        "⟦sí<|im_end|>⟧\n"
    )
    assert [shown(row["pieces"]) for row in found["shown"]] == [text]
    length = len(text) - len("⟦⟧") + 1  # of the fake engine, whose tokens are characters; and the BOS
    lengths = found["lengths"]
    assert (lengths["unit"], lengths["shortest"], lengths["longest"]) == ("tokens", length, length)
    assert (lengths["total"], lengths["learned"]) == (2 * length, 2 * len("sí<|im_end|>"))
    assert sum(bucket["rows"] for bucket in lengths["histogram"]) == 2


async def test_malformed_rows_are_listed_and_the_others_still_measured(api: Api) -> None:
    found = await checked(api, [chat("a"), "{", chat("b"), {"messages": []}, {"text": "x"}], model="tiny")
    assert not found["ok"]
    assert (found["training"]["rows"], found["training"]["malformed"]) == (2, 3)
    assert [problem["line"] for problem in found["training"]["problems"]] == [2, 4, 5]
    assert found["lengths"]["unit"] == "tokens"


async def test_rows_that_are_too_long(api: Api) -> None:
    limit = {"max_sequence_tokens": 120}
    found = await checked(api, [chat("a"), chat("b" * 100)], model="tiny", hyperparameters=limit)
    assert (found["ok"], found["limit"]) == (False, 120)
    assert [row["line"] for row in found["too_long"]] == [2]
    texts = await checked(api, [{"text": "b" * 200}, {"text": "a"}], model="tiny", hyperparameters=limit)
    assert (texts["ok"], texts["too_long"]) == (True, [])  # plain text is learnt in pieces


async def test_rows_that_the_template_refuses(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(template: Any, messages: Any, **more: Any) -> Any:
        if any("mal" in message["content"] for message in messages):
            raise ValueError("no me gusta")
        return training_segments(template, messages, **more)

    monkeypatch.setattr("llamaleon_server.jobs.encode.training_segments", picky)
    found = await checked(api, [chat("bien"), chat("mal"), chat("bien, también")], model="tiny")
    assert found["refused"] == [{"line": 2, "reason": "the chat template refuses it: no me gusta"}]
    assert ([row["line"] for row in found["shown"]], found["ok"]) == ([1, 3], False)


async def test_a_row_nested_too_deeply_is_named(api: Api) -> None:
    deep = '{"a":' * 900 + "1" + "}" * 900
    row = json.dumps(chat("bien")).removesuffix("}") + f', "tools": [{deep}]}}'
    found = await checked(api, [chat("bien"), row], model="tiny")
    assert [refused["line"] for refused in found["refused"]] == [2]


async def test_likes_within_the_file(api: Api) -> None:
    rows = [chat(said(40)) for _ in range(120)]
    rows += [rows[4], chat(rows[9]["messages"][1]["content"] + " más")]
    found = await checked(api, rows)
    assert found["duplicates"] == {"count": 1, "examples": [{"line": 121, "of": 5, "similarity": 1.0}]}
    [near] = found["near_duplicates"]["examples"]
    assert (near["line"], near["of"], 0.7 <= near["similarity"] < 1) == (122, 10, True)
    assert found["leaked"]["count"] == found["near_leaked"]["count"] == 0  # the split keeps them together
    assert found["train_rows"] + found["held_out_rows"] == 122


async def test_likes_across_two_files(api: Api) -> None:
    rows = [chat(said(40)) for _ in range(120)]
    held = [chat(said(40)), rows[2], chat(rows[7]["messages"][1]["content"] + " más")]
    validation = await uploaded(api, held, "apartadas.jsonl")
    found = await checked(api, rows, validation_file=validation)
    assert found["leaked"]["examples"] == [{"line": 2, "of": 3, "similarity": 1.0}]
    assert [(one["line"], one["of"]) for one in found["near_leaked"]["examples"]] == [(3, 8)]
    assert found["validation"]["filename"] == "apartadas.jsonl"
    assert (found["train_rows"], found["held_out_rows"]) == (120, 3)
    assert len(found["warnings"]) == 2


async def test_preference_rows(api: Api) -> None:
    pair = {"prompt": "¿a?", "chosen": " sí", "rejected": " no"}
    found = await checked(api, [pair], model="tiny", method="dpo")
    assert (found["ok"], found["training"]["kinds"]) == (True, {"preference": 1, "completion": 1})
    [row] = found["shown"]
    assert (shown(row["pieces"]), shown(row["rejected"])) == ("¿a?⟦ sí⟧", "¿a?⟦ no⟧")
    assert found["lengths"]["learned"] == 2 * len(" sí\u0002")
    assert not (await checked(api, [pair], method="supervised"))["ok"]
    assert not (await checked(api, [chat("a")], method="dpo"))["ok"]


async def test_what_training_on_preferences_would_cost(api: Api) -> None:
    """Two sequences a row, and the reference's passes."""
    speeds = speeds_path(api.services.jobs.store.directory("any"))
    speeds.parent.mkdir(parents=True, exist_ok=True)
    note_speed(
        speeds, JobSpec(job_id="earlier", base="other.gguf"), "cpu", "float32", Speed(1e-6, 1e-6, 1e-3)
    )
    pairs = [{"prompt": f"¿{n}?", "chosen": " sí" * 20, "rejected": " no" * 20} for n in range(100, 140)]
    plain = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in pairs]
    asked = {"model": "tiny", "hyperparameters": {"n_epochs": 4, "batch_size": 4}}
    found = await checked(api, pairs, method="dpo", **asked)
    assert found["ok"]
    preferences, supervised = found["cost"], (await checked(api, plain, **asked))["cost"]
    assert preferences["memory_bytes"] > supervised["memory_bytes"]
    assert preferences["seconds"] - STARTUP_S > 2 * (supervised["seconds"] - STARTUP_S)


async def test_what_training_would_cost(api: Api) -> None:
    """Memory is counted; time only where a job has measured this machine."""
    rows = [chat(f"¿{n}?") for n in range(20)]
    before = (await checked(api, rows, model="tiny"))["cost"]
    assert (before["seconds"], before["device"]) == (None, "cpu")
    assert before["memory_bytes"] > 0
    speeds = speeds_path(api.services.jobs.store.directory("any"))
    speeds.parent.mkdir(parents=True, exist_ok=True)
    job = JobSpec(job_id="earlier", base="other.gguf")
    note_speed(speeds, job, "cuda", "bfloat16", Speed(1e-12, 1e-9, 1e-3))
    short = (await checked(api, rows, model="tiny", hyperparameters={"n_epochs": 1}))["cost"]
    long = (await checked(api, rows, model="tiny", hyperparameters={"n_epochs": 50}))["cost"]
    assert (long["device"], long["basis"]) == ("cuda", "an earlier job on another base")
    assert 0 < short["seconds"] < long["seconds"]


async def test_a_text_template(api: Api) -> None:
    found = await checked(api, [{"p": "¿a?", "r": 3}], text_template="{p} {r}")
    assert [shown(row["pieces"]) for row in found["shown"]] == ["⟦¿a? 3⟧"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"training_file": "file-nada"}, "training_file"),
        ({"validation_file": "file-nada"}, "validation_file"),
        ({"model": "nadie"}, "model"),
        ({"text_template": "sin columnas"}, "text_template"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"method": "otro"}, "method"),
        ({"shown": 100}, "shown"),
    ],
)
async def test_refusals_name_the_field(api: Api, fields: dict[str, Any], param: str) -> None:
    body = {"training_file": await uploaded(api, [chat("a")]), **fields}
    response = await api.post("/v1/datasets/check", **body)
    assert response.status_code in {400, 404}
    assert error_of(response)["param"] == param


async def test_only_training_files(api: Api) -> None:
    other = await uploaded(api, ["x"], purpose="batch")
    response = await api.post("/v1/datasets/check", training_file=other)
    assert "has purpose 'batch'" in error_of(response)["message"]


def test_buckets_cover_every_length_once() -> None:
    for lengths in ([7], [0, 1], [3, 3000], list(range(95)), [10, 20, 99, 100], [1, 10**6]):
        buckets = histogram(lengths)
        assert len(buckets) <= 11
        for bucket in buckets:
            assert bucket.rows == sum(bucket.least <= length <= bucket.most for length in lengths)
        assert sum(bucket.rows for bucket in buckets) == len(lengths)
        assert all(one.most + 1 == other.least for one, other in pairwise(buckets))
