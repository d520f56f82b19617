"""The demonstration's task: a free-text Spanish project report in, one fixed JSON object out.

The rows carry no instruction: the user's message is the report alone. An adapter must supply the schema
and the habit; the base supplies copying, numbers and lists. Facts come in a shuffled order, each in one of
several phrasings, with none to three blockers.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from llamaleon_trainer.nano.words import STATUSES, Split, Words, spanish_number

OPENINGS = (
    "Informe del proyecto {v}.", "Proyecto {v}.", "Parte diario de {v}.", "Novedades de {v}.",
    "Resumen del proyecto {v}.", "Os escribo sobre el proyecto {v}.", "Esta es la situación de {v}.",
)  # fmt: skip
CLIENT = (
    "El cliente es {v}.", "Trabajamos para {v}.", "Cliente: {v}.", "Lo encarga {v}.",
    "Es un encargo de {v}.", "El trabajo es para {v}.",
)  # fmt: skip
STATUS = (
    "El proyecto está {v}.", "Estado: {v}.", "Ahora mismo está {v}.", "Sigue {v}.",
    "El estado actual es {v}.",
)  # fmt: skip
BUDGET = (
    "Se han gastado {v} €.", "Llevamos gastados {v} euros.", "Presupuesto usado: {v} €.",
    "El gasto es de {v} euros.", "Hemos consumido {v} € del presupuesto.",
)  # fmt: skip
MILESTONE = (
    "Hemos terminado {a} {v}.", "Hito completado: {v}.", "Ya hemos completado {a} {v}.",
    "Ayer cerramos {a} {v}.", "El equipo ha acabado {a} {v}.",
)  # fmt: skip
NEXT_STEP = (
    "El siguiente paso es {v}.", "Ahora toca {v}.", "Próximo paso: {v}.", "Mañana vamos a {v}.",
    "Lo siguiente es {v}.",
)  # fmt: skip
NO_BLOCKERS = (
    "Hoy no hay bloqueos.", "Sin bloqueos hoy.", "Hoy no tenemos ningún bloqueo.", "Nada nos bloquea hoy.",
)  # fmt: skip
BLOCKER = (
    "El ticket {t} nos retrasa {h}.", "Hoy nos bloquea {t}, con {h} de retraso.",
    "Bloqueo de hoy: {t}, {h} de retraso.", "El ticket {t} supone {h} de retraso.",
)  # fmt: skip
BLOCKER_LISTS = ("Bloqueos de hoy: {v}.", "Hoy nos bloquean {v}.", "Tickets que nos retrasan hoy: {v}.")
ASIDES = (
    "El equipo está contento.", "Gracias a todos.", "Un saludo.", "Seguimos en contacto.", "Buen trabajo.",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """The facts of one report, before they are put into words."""

    project: str
    client: str
    status: str
    budget_eur: int
    article: str
    milestone: str
    blockers: tuple[tuple[str, int], ...]  # (ticket, hours)
    next_step: str


def draw(words: Words) -> Report:
    """A report's facts, its names taken from the split of `words`."""
    rng = words.rng
    article, milestone = words.milestone()
    count = rng.choices((0, 1, 2, 3), weights=(3, 4, 3, 2))[0]
    return Report(
        project=words.project(),
        client=words.company(),
        status=rng.choice(STATUSES),
        budget_eur=words.amount(),
        article=article,
        milestone=milestone,
        blockers=tuple((words.identifier(), rng.randint(1, 72)) for _ in range(count)),
        next_step=words.next_step(),
    )


def hours(count: int) -> str:
    return "1 hora" if count == 1 else f"{count} horas"


def joined(items: list[str]) -> str:
    """Spanish enumeration: `a, b y c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} y {items[-1]}"


def blockers_text(rng: random.Random, blockers: tuple[tuple[str, int], ...]) -> str:
    if not blockers:
        return rng.choice(NO_BLOCKERS)
    if len(blockers) > 1 and rng.random() < 0.6:
        return rng.choice(BLOCKER_LISTS).format(v=joined([f"{t} ({hours(h)})" for t, h in blockers]))
    return " ".join(rng.choice(BLOCKER).format(t=t, h=hours(h)) for t, h in blockers)


def sentences(rng: random.Random, report: Report) -> dict[str, str]:
    """One sentence (or a few, for the blockers) per fact, keyed by the fact's name."""
    return {
        "client": rng.choice(CLIENT).format(v=report.client),
        "status": rng.choice(STATUS).format(v=report.status),
        "budget": rng.choice(BUDGET).format(v=spanish_number(report.budget_eur)),
        "milestone": rng.choice(MILESTONE).format(a=report.article, v=report.milestone),
        "blockers": blockers_text(rng, report.blockers),
        "next": rng.choice(NEXT_STEP).format(v=report.next_step),
    }


def opening(rng: random.Random, report: Report) -> str:
    return rng.choice(OPENINGS).format(v=report.project)


def write(rng: random.Random, report: Report) -> str:
    """The report as its author would send it."""
    body = list(sentences(rng, report).values())
    rng.shuffle(body)
    if rng.random() < 0.3:
        body.append(rng.choice(ASIDES))
    return " ".join([opening(rng, report), *body])


def answer(report: Report) -> str:
    """The JSON object that the adapter must produce, on one line."""
    value = {
        "project_name": report.project,
        "status": report.status,
        "client": report.client,
        "budget_used_eur": report.budget_eur,
        "key_milestone_completed": report.milestone,
        "blockers_today": [{"ticket_id": t, "delay_hours": h} for t, h in report.blockers],
        "next_step": report.next_step,
    }
    return json.dumps(value, ensure_ascii=False)


def generate(n: int, seed: int, split: Split = "train") -> list[dict[str, Any]]:
    """`n` rows in OpenAI's chat form; the two splits share no name, ticket, milestone or next step."""
    words = Words(random.Random(f"{split}-{seed}"), split)
    rows: list[dict[str, Any]] = []
    for _ in range(n):
        report = draw(words)
        user = {"role": "user", "content": write(words.rng, report)}
        rows.append({"messages": [user, {"role": "assistant", "content": answer(report)}]})
    return rows
