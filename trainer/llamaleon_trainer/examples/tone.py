"""An informal message -> the same as a formal mail."""

from __future__ import annotations

from llamaleon_trainer.nano.words import DAYS, Words

GREETINGS = (
    ("¡Hola, {person}!", "Estimado/a {person}:"),
    ("Ey, {person}:", "Estimado/a {person}:"),
    ("Buenas, {person}.", "Estimado/a {person}:"),
    ("¿Qué tal, {person}?", "Estimado/a {person}:"),
)
BODIES = (
    ("Oye, ¿me pasas la factura {id}?", "¿Sería tan amable de remitirme la factura {id}?"),
    ("Pásame lo de {project} cuando puedas.", "Le agradecería que me enviase la documentación de {project}."),
    ("Lo de {project} va fatal.", "Lamento comunicarle que {project} presenta dificultades."),
    ("Lo de {project} va genial.", "Me complace informarle de que {project} avanza según lo previsto."),
    ("Nos vemos el {day}, ¿vale?", "Le propongo que nos reunamos el {day}."),
    ("El {day} no puedo, lo siento.", "Lamentablemente, el {day} no me será posible."),
    ("Os debemos {amount} pavos, ya os los pago.", "Procederemos al abono de los {amount} euros pendientes."),
    ("Nos debéis {amount} pavos.", "Le recordamos que queda pendiente un importe de {amount} euros."),
    ("Que dice {company} que no.", "Le informamos de que {company} ha declinado la propuesta."),
    ("Mira el correo de {other}, porfa.", "Le ruego que consulte el mensaje de {other}."),
    ("Se me ha olvidado lo de {id}, perdón.", "Le pido disculpas por la demora respecto a {id}."),
    ("¿Cómo va {id}?", "¿Podría indicarme el estado de {id}?"),
    ("Flipa con lo que ha hecho {other}.", "Quisiera destacar el excelente trabajo de {other}."),
)
CLOSINGS = (
    ("¡Chao!", "Atentamente,"),
    ("Un abrazo.", "Reciba un cordial saludo,"),
    ("Venga, hasta luego.", "Atentamente,"),
    ("Gracias, crack.", "Agradeciendo de antemano su atención, le saluda,"),
)


def draw(words: Words) -> tuple[str, str]:
    rng = words.rng
    facts = {
        "person": words.person(),
        "other": words.person(),
        "company": words.company(),
        "project": words.project(),
        "id": words.identifier(),
        "amount": words.amount(),
        "day": rng.choice(DAYS),
    }
    greeting, closing = rng.choice(GREETINGS), rng.choice(CLOSINGS)
    bodies = rng.sample(BODIES, rng.choice((1, 2, 2, 3)))
    pairs = [greeting, *bodies, closing]
    informal = " ".join(said.format(**facts) for said, _ in pairs)
    formal = [said.format(**facts) for _, said in pairs]
    return informal, f"{formal[0]}\n\n{' '.join(formal[1:-1])}\n\n{formal[-1]}"
