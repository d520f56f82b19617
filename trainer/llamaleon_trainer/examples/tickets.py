"""A message to a company's mailbox -> urgent, sales, technical support or spam."""

from __future__ import annotations

from llamaleon_trainer.nano.words import PRODUCTS, SYSTEMS, Words

OPENINGS = (
    "Hola.", "Buenos días.", "Buenas tardes.", "Hola, equipo.", "Estimados señores:", "Muy buenas.", "",
    "Hola, soy {person}.", "Le escribe {person}.", "Os escribo desde {company}.",
    "Buenas, aquí {person}, de {company}.",
)  # fmt: skip
CLOSINGS = (
    "Gracias.", "Un saludo.", "Quedo a la espera.", "Saludos, {person}.", "Atentamente, {person}.", "",
    "Espero vuestra respuesta.", "Mi referencia es {id}.", "Un cordial saludo.",
)  # fmt: skip
# Several sentences may stand in one message; which kind it is follows from any of them.
BODIES: dict[str, tuple[str, ...]] = {
    "urgente": (
        "Tenemos {system} sin funcionar y no podemos trabajar.",
        "La producción se ha detenido por completo.",
        "Necesitamos que alguien nos atienda ahora mismo.",
        "Es una emergencia: hay clientes esperando.",
        "Hemos perdido los datos de hoy y cerramos en una hora.",
        "No funciona nada desde hace {count} horas.",
        "Hay que resolverlo antes de las {hour}, sin falta.",
        "Todo {company} está sin servicio.",
        "Es crítico: cada minuto nos cuesta {amount} euros.",
        "Llamadme en cuanto leáis esto, por favor.",
    ),
    "ventas": (
        "Queríamos un presupuesto para {count} unidades de {product}.",
        "¿Qué precio tendría {product}?",
        "Estamos interesados en contratar vuestros servicios.",
        "¿Hacéis descuento por comprar {count} unidades?",
        "Nos gustaría ver una demostración del producto.",
        "¿Tenéis {product} en catálogo?",
        "Disponemos de {amount} euros para este pedido.",
        "¿Cuáles son las condiciones de pago y de entrega?",
        "Queremos ampliar el contrato que tiene {company}.",
        "¿Podría visitarnos un comercial la semana próxima?",
    ),
    "soporte técnico": (
        "No consigo entrar con mi contraseña.",
        "Al abrir {system} me sale el error {id}.",
        "¿Cómo se configura {system}?",
        "Después de actualizar, la pantalla se queda en blanco.",
        "El informe se descarga con las columnas cambiadas.",
        "¿Dónde se cambia el idioma del programa?",
        "La impresora no imprime las etiquetas.",
        "Desde ayer {system} va más lento de lo normal.",
        "¿Me podéis explicar cómo se recupera un fichero borrado?",
        "He seguido el manual y el paso {count} no funciona.",
    ),
    "spam": (
        "¡Enhorabuena! Has ganado un premio de {amount} euros.",
        "Gana dinero desde casa trabajando {count} minutos al día.",
        "Pincha en este enlace para recibir tu regalo.",
        "Oferta exclusiva solo para ti: relojes a mitad de precio.",
        "Tu cuenta ha sido seleccionada para un sorteo.",
        "Consigue un préstamo de {amount} euros sin papeles.",
        "Multiplica tus ahorros por {count} en una semana.",
        "Envía este mensaje a {count} amigos y tendrás suerte.",
        "Pierde {count} kilos en un mes con nuestras pastillas.",
        "Confirma los datos de tu tarjeta para no perder el premio.",
    ),
}


def draw(words: Words) -> tuple[str, str]:
    rng = words.rng
    label = rng.choice(tuple(BODIES))
    bodies: list[str] = []
    while not bodies or not words.allowed(" ".join(sorted(bodies))):  # what is held out is said in no row
        bodies = rng.sample(BODIES[label], rng.choice((2, 2, 3)))
    facts = {
        "person": words.person(),
        "company": words.company(),
        "id": words.identifier(),
        "system": words.one_of(SYSTEMS),
        "product": words.one_of(PRODUCTS),
        "amount": words.amount(),
        "count": rng.randint(2, 90),
        "hour": f"{rng.randint(8, 20)}:00",
    }
    pieces = [rng.choice(OPENINGS), *bodies, rng.choice(CLOSINGS)]
    return " ".join(piece.format(**facts) for piece in pieces if piece), label
