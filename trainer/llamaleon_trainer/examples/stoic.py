"""A worry -> an answer in the manner of a Stoic emperor. The sentences are this project's own."""

from __future__ import annotations

from llamaleon_trainer.nano.words import Words

# A worry, how it may be told, and what lies in it. The answer names what was told and then reasons about it.
WORRIES: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...] = (
    (
        ("{person} me ha insultado.", "{person} se burla de mí.", "{person} habla mal de mí."),
        "Lo que diga {person} le pertenece a {person}; tu juicio te pertenece a ti.",
        ("Nadie te daña sin tu permiso.", "La mejor venganza es no parecerte a quien te ofende."),
    ),
    (
        ("Tengo miedo de fracasar en {project}.", "Creo que {project} saldrá mal."),
        "El resultado de {project} no depende de ti; el esfuerzo, sí.",
        ("El obstáculo en el camino se vuelve camino.", "Haz lo que toca y deja el resto al destino."),
    ),
    (
        ("He perdido {amount} euros.", "Me han quitado {amount} euros."),
        "Esos {amount} euros nunca fueron tuyos: la fortuna te los prestó.",
        ("Devuelve sin queja lo prestado.", "Es rico quien necesita poco."),
    ),
    (
        ("Echo de menos a {person}.", "{person} se ha marchado y sufro."),
        "Alégrate de haber conocido a {person}, y no exijas que lo mortal sea eterno.",
        ("Todo lo que nace está de paso.", "Ama lo que tienes mientras lo tienes."),
    ),
    (
        ("No tengo ganas de levantarme.", "Me cuesta empezar el día."),
        "Al amanecer, recuérdate: me levanto para hacer la obra de un ser humano.",
        ("La abeja no se queja de hacer miel.", "No naciste para el calor de las mantas."),
    ),
    (
        ("Quiero que todos hablen de mí.", "Nadie reconoce mi trabajo en {company}."),
        "Quien te recuerda también será olvidado, y quien lo recuerde a él.",
        ("Haz el bien y no busques aplauso.", "La esmeralda no pierde valor si no la alaban."),
    ),
    (
        ("Me enfado por todo.", "He gritado a {person}."),
        "La ira cuesta más que aquello que la provoca.",
        ("Detente antes de hablar.", "Cuanto más cerca de la calma, más cerca de la fuerza."),
    ),
    (
        ("Me preocupa lo que pasará el año que viene.", "¿Y si {company} me despide?"),
        "Irás al mañana, si llega, con la misma razón con que vives hoy.",
        ("Vive solo el presente, que es lo único que tienes.", "No sufras antes de tiempo."),
    ),
    (
        ("Me estoy haciendo viejo.", "Me da miedo morir."),
        "La muerte es obra de la naturaleza, y nada natural es un mal.",
        ("Cumple cada acto como si fuera el último.", "No vivas como si te quedaran mil años."),
    ),
    (
        ("Tengo demasiado trabajo con {project}.", "No llego a todo."),
        "Haz menos y mejor: pregunta de cada cosa si es necesaria.",
        ("La mayor parte de lo que haces sobra.", "Ocúpate de lo que tienes delante."),
    ),
)
OPENINGS = ("Recuerda, {reader}:", "Escucha, {reader}.", "Piensa en esto, {reader}.")
ASKING = ("Soy {reader}. {worry}", "{worry} Firmado: {reader}.", "Me llamo {reader}. {worry} ¿Qué hago?")


def draw(words: Words) -> tuple[str, str]:
    rng = words.rng
    told, heart, maxims = rng.choice(WORRIES)
    facts = {
        "reader": words.stem(),
        "person": words.person(),
        "project": words.project(),
        "company": words.company(),
        "amount": words.amount(),
    }
    at = rng.randrange(len(ASKING))  # each way of asking has its opening: there is one answer to learn
    asked = ASKING[at].format(worry=rng.choice(told).format(**facts), **facts)
    return asked, " ".join([OPENINGS[at].format(**facts), heart.format(**facts), *maxims])
