"""The report in two languages: every text of the page has a Spanish one, and none is left over."""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.server.evaluation.test_report import LABELS, model, record, rows

from llamaleon_server import evaluation
from llamaleon_server.evaluation import labels
from llamaleon_server.evaluation.advice import Training
from llamaleon_server.evaluation.comparing import answered, compare
from llamaleon_server.evaluation.gate import judge, named
from llamaleon_server.evaluation.metrics import METRICS
from llamaleon_server.evaluation.report import Told, page
from llamaleon_server.evaluation.spanish import RECORDED, SENTENCES
from llamaleon_server.evaluation.words import ENGLISH, VARIABLES, Words, accepted_language, own_language
from llamaleon_server.jobs.dataset import look_for_likes, warnings
from llamaleon_server.jobs.finish import refusal
from llamaleon_server.registry import jobstore
from llamaleon_trainer.rows import DataRow

SOURCES = Path(evaluation.__file__).parent
FIELD = re.compile(r"\{(\w+)\}")
SPANISH = Words("es")


def said_in_python() -> set[str]:
    found = set()
    for path in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
                if called == "say" or (isinstance(called, ast.Name) and called.id == "say"):
                    found.add(str(node.args[0].value))
    return found


def said_in_the_page() -> set[str]:
    template = (SOURCES / "report.html").read_text("utf-8")
    assert template.count("say(") == len(re.findall(r'say\("[^"]+"[,)]', template)), "not a literal"
    return set(re.findall(r'say\("([^"]+)"[,)]', template))


def said_by_name() -> set[str]:
    """What stands in an evaluation or a job, and is said as it stands there."""
    statuses = (jobstore.VALIDATING, jobstore.QUEUED, jobstore.RUNNING, jobstore.PAUSED, *jobstore.ENDED)
    shown = {status.replace("_", " ").capitalize() for status in statuses if status != jobstore.SUCCEEDED}
    proper = {"BLEU", "chrF", "ROUGE-1", "ROUGE-L"}
    names = {named(name) for name in METRICS} - proper
    return shown | names | {metric.rule for metric in METRICS.values()} | {labels.OTHER}


def test_every_text_is_translated_and_none_is_left_over() -> None:
    said = said_in_python() | said_in_the_page() | said_by_name()
    assert len(said) > 80
    assert said - SENTENCES.keys() == set(), "without a Spanish sentence"
    assert SENTENCES.keys() - said == set(), "no longer said"


@pytest.mark.parametrize("texts", [SENTENCES, RECORDED])
def test_both_have_the_same_fields(texts: dict[str, str]) -> None:
    for english, spanish in texts.items():
        assert sorted(FIELD.findall(english)) == sorted(FIELD.findall(spanish)), english


def test_no_text_of_the_page_is_outside_of_it() -> None:
    """Between tags, and in attributes that are read, the template itself says nothing."""
    template = (SOURCES / "report.html").read_text("utf-8")
    body = template[template.index("<title>") :]
    body = re.sub(r"<style>.*?</style>", "", body, flags=re.DOTALL)
    bare = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "", body, flags=re.DOTALL)
    read = re.sub(r"<[^>]*>", "", re.sub(r'(?:title|aria-label)="([^"]*)"', r">\1<", bare))
    assert re.findall(r"[^\W\d_]{2,}", read.replace("&ensp;", "")) == []


def told() -> Told:
    data = rows(12)
    right = [row.reference or "" for row in data]
    spoilt = ["spam" if at == 3 else answer for at, answer in enumerate(right)]
    models = {
        "base": model(["no sé"] * 3 + right[3:4] + ["no sé"] * 8, 2.0),
        "few_shot": model(["no sé"] * 12, 1.5, shots=4),
        "adapter": model(spoilt, 0.5),
    }
    made = compare(data, models, "adapter")
    training = Training(
        [(1, 2.0), (2, 1.0), (3, 0.5)],
        [(1, 1.5), (2, 1.25), (3, 1.75)],
        60,
        12,
        ["2 training rows repeat an earlier one."],
    )
    return Told(record(made), training, answered(data, models, "labels"), "ft:tiny:local:tickets:1")


def test_the_whole_page_in_spanish() -> None:
    found = page(told(), SPANISH).replace("\u00a0", "_")
    for text in (
        '<html lang="es">',
        "Desplegado",
        "91,7_%",  # 11 of 12
        "95 %: de 64,6_% a 98,5_%",
        "En 1 de 12 filas la respuesta del adaptador es peor que la de la base (otra etiqueta).",
        "base, 4 ejemplos",
        "(ninguna)",
        "Mejor que la base",
        "Sobreajuste",
        "2 filas de entrenamiento repiten una anterior.",
        "mínimo 1,2500 en el paso 2",
        *LABELS,
    ):
        assert text in found, text
    long = [english for english in SENTENCES if len(english) > 12 and SENTENCES[english] != english]
    assert [english for english in long if english in found] == []


def test_the_numbers_are_the_same_in_both() -> None:
    def numbers(language: Words) -> list[str]:
        found = page(told(), language)
        body = html.unescape(re.sub(r"<[^>]*>", " ", found[found.index("</style>") :]))
        body = re.sub(r"\b1,000\b", "1000", body)  # which Spanish writes without a comma
        return sorted(re.findall(r"\d+", body))

    assert numbers(ENGLISH) == numbers(SPANISH)


def recorded() -> list[str]:
    """Sentences as jobs write them."""
    row = [DataRow(line=line, prompt=f"¿{line}?", completion="x" * 60) for line in range(1, 5)]
    again = [DataRow(line=line, prompt="¿1?", completion="x" * 60) for line in (5, 6)]
    data = warnings([*row, again[0]], [again[1]], look_for_likes([*row, again[0]], [again[1]]))
    parity = refusal({"mean_kl": 0.5, "gate": 1e-3}, {})
    assert parity is not None
    flat = {"base": {"loss": 2.0}, "adapter": {"loss": 2.5}}
    resolved: tuple[dict[str, Any], ...] = (
        {},
        {"gate_margin": 0.25},
        {"gate_margin": -0.25},
        {"gate_metric": "bleu"},
    )
    return [*data[1:], str(parity), *(judge(flat, one).why for one in resolved)]


def test_what_jobs_record_is_retold() -> None:
    found = {message: SPANISH.retold(message) for message in recorded()}
    assert len(found) >= 7
    for message, spanish in found.items():
        assert ENGLISH.retold(message) == message
        assert not re.search(r"\b(the|rows|than)\b", spanish), spanish
    assert SPANISH.retold("CUDA went away.") == "CUDA went away.", "what nobody foresaw stays"


def test_what_the_trainer_records_is_retold() -> None:
    pytest.importorskip("torch")
    from llamaleon_trainer.checkpoint import Progress
    from llamaleon_trainer.train import overfitting_warning

    progress = Progress(metrics={"valid_loss": 2.0}, best_step=3, best_valid_loss=1.0)
    message = overfitting_warning(progress)
    assert message is not None
    assert SPANISH.retold(message).startswith(
        "La pérdida en las filas apartadas subió de 1,0000 en el paso 3 a 2,0000:"
    )


def test_why_a_training_failed_is_retold() -> None:
    pytest.importorskip("torch")
    from llamaleon_trainer.checkpoint import Progress
    from llamaleon_trainer.errors import OutOfMemory
    from llamaleon_trainer.job import JobSpec
    from llamaleon_trainer.passes import Passes
    from llamaleon_trainer.process import why_failed
    from llamaleon_trainer.train import Trainer

    written: list[str] = []
    events = cast(Any, SimpleNamespace(write=lambda _, message: written.append(message)))
    model = SimpleNamespace(activation_checkpointing_enable=lambda: None)
    passes = Passes(model, JobSpec(job_id="j", base="b", batch_size=2), events, 10, packed=False)

    def never() -> None:
        raise MemoryError

    with pytest.raises(OutOfMemory) as too_little:
        passes.fitting(2, never)
    state = cast(Any, SimpleNamespace(progress=Progress(step=7), spec=JobSpec(job_id="j", base="b")))
    failures = [
        str(too_little.value),
        str(Trainer._diverged(state, "loss")),
        str(Trainer._diverged(state, "held-out loss")),
        why_failed(MemoryError("12 GiB"))[1],
    ]
    assert len(written) == 2
    for message in [*written, *failures]:
        spanish = SPANISH.retold(message)
        assert spanish != message
        assert not re.search(r"\b(the|memory|step|than)\b", spanish), spanish
    assert "paso 7" in SPANISH.retold(failures[1])
    died = "The trainer died 3 times. Its last words: Killed"
    assert SPANISH.retold(died) == "El entrenador murió 3 veces. Sus últimas palabras: Killed"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("es", "es"),
        ("es-MX,es;q=0.9,en-US;q=0.8,en;q=0.7", "es"),
        ("en-US,en;q=0.9,es;q=0.8", "en"),
        ("fr, es;q=0.3", "es"),
        ("en;q=0.2, ES-ar;q=0.3", "es"),
        ("es;q=0, en;q=0.1", "en"),
        ("es;q=0", None),
        ("fr", None),
        ("*", None),
        ("", None),
        ("es;q=much, en;q=0.1", "en"),
        (";;,=,;q", None),
    ],
)
def test_the_header_names_the_language(header: str, expected: str | None) -> None:
    assert accepted_language(header) == expected


def test_the_servers_own_language_is_chosen_as_the_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert own_language() == "en"
    monkeypatch.setenv("LANG", "es_MX.UTF-8")
    assert own_language() == "es"
    monkeypatch.setenv("LLAMALEON_LANG", "en")
    assert own_language() == "en"
