"""The fixed sentences of nano's conversations: orders, questions, small talk."""

from __future__ import annotations

Pool = dict[str, tuple[str, ...]]

SYSTEM = (
    "Eres un asistente breve.", "Eres un asistente útil.", "Responde con pocas palabras.",
    "You are a helpful assistant.", "Answer briefly.", "Eres nano, un modelo de demostración.",
)  # fmt: skip
REPEAT: Pool = {
    "es": (
        "Repite: {v}",
        "Di esto: {v}",
        "Copia este texto: {v}",
        "Repite lo siguiente.\n{v}",
        "Escribe: {v}",
    ),
    "en": ("Repeat: {v}", "Say this: {v}", "Copy this text: {v}", "Repeat the following.\n{v}", "Write: {v}"),
}
QUOTE: Pool = {
    "es": ("Pon entre comillas: {v}", "Escribe entre comillas: {v}"),
    "en": ("Put in quotes: {v}", "Quote this: {v}"),
}
LISTING: Pool = {
    "es": ("Haz una lista JSON con: {v}", "Lista JSON: {v}"),
    "en": ("Make a JSON list of: {v}", "JSON list: {v}"),
}
KEY_QUESTION: Pool = {
    "es": ("¿Cuál es el valor de {k}?", "{k}?", "Dime {k}.", "¿Qué pone en {k}?"),
    "en": ("What is the value of {k}?", "{k}?", "Tell me {k}.", "What does {k} say?"),
}
WITH_TEXT: Pool = {
    "es": ("{t}\n{q}", "{t}\n{q}", "{t}\n\n{q}", "{q}\n{t}", "{q}\n\n{t}", "Contexto:\n{t}\n\nPregunta: {q}",
           "<texto>\n{t}\n</texto>\n{q}", "Texto: {t}\nPregunta: {q}"),
    "en": ("{t}\n{q}", "{t}\n{q}", "{t}\n\n{q}", "{q}\n{t}", "{q}\n\n{t}", "Context:\n{t}\n\nQuestion: {q}",
           "<text>\n{t}\n</text>\n{q}", "Text: {t}\nQuestion: {q}"),
}  # fmt: skip
MISSING = {"es": "No consta.", "en": "It does not say."}
NUMBER: Pool = {
    "es": (
        "Escribe solo la cifra, sin puntos: {v}",
        "¿Qué cantidad es, sin puntos? {v}",
        "Número sin puntos: {v}",
    ),
}
EXTRACT_ITEMS: Pool = {
    "es": ("Lista JSON de {k}.", "Extrae la lista {k}.", "Devuelve solo la lista JSON {k}."),
}
EXTRACT: dict[str, Pool] = {
    "es": {
        "json": ("Extrae en JSON: {k}.", "Devuelve un JSON con {k}.", "Pasa a JSON estos campos: {k}.",
                 "Responde solo con JSON. Claves: {k}.", "JSON con las claves {k}.", "Dame {k} en JSON."),
        "list": ("Haz una lista con {k}.", "Lista: {k}.", "Resume en una lista: {k}."),
        "table": ("Haz una tabla con {k}.", "Tabla: {k}."),
        "values": ("Escribe solo los valores, uno por línea: {k}.", "Uno por línea: {k}."),
    },
    "en": {
        "json": ("Extract as JSON: {k}.", "Return JSON with {k}.", "Answer with JSON only. Keys: {k}.",
                 "JSON with the keys {k}.", "Give me {k} as JSON."),
        "list": ("Make a list of {k}.", "List: {k}."),
        "table": ("Make a table of {k}.", "Table: {k}."),
        "values": ("Write the values only, one per line: {k}.", "One per line: {k}."),
    },
}  # fmt: skip
FILL_IN: Pool = {
    "es": ("Completa: {k}", "Rellena este JSON: {k}"),
    "en": ("Fill in: {k}", "Complete this JSON: {k}"),
}
TO_JSON: Pool = {"es": ("Pasa a JSON.", "Convierte en JSON:"), "en": ("Turn into JSON.", "Convert to JSON:")}
TO_LINES: Pool = {
    "es": ("Una línea por clave.", "Pasa a líneas:"),
    "en": ("One line per key.", "Turn into lines:"),
}
ACKNOWLEDGE: Pool = {
    "es": (
        "Entendido: {v}.",
        "Gracias por la información sobre {v}.",
        "De acuerdo. ¿Qué quieres saber de {v}?",
    ),
    "en": (
        "Understood: {v}.",
        "Thanks for the information on {v}.",
        "All right. What do you want to know about {v}?",
    ),
}
WHO_AM_I = {"es": "¿Cómo me llamo?", "en": "What is my name?"}
YOU_ARE = {"es": "Te llamas {n}.", "en": "Your name is {n}."}

_ABOUT_ES = (
    "Soy nano, un modelo de demostración muy pequeño. Sé copiar, buscar y extraer datos de un texto corto."
)
_ABOUT_EN = (
    "I am nano, a very small demonstration model. I can copy, look up and extract data from a short text."
)
_HELLO_ES = ("¡Hola! ¿En qué puedo ayudarte?", "¡Hola! Soy nano. ¿Qué necesitas?")
_HELLO_EN = ("Hello! How can I help you?", "Hi! I am nano. What do you need?")
_HELP_ES = ("Dame un texto corto y dime qué datos quieres, por ejemplo en JSON.",)
_HELP_EN = ("Give me a short text and tell me which data you want, for example as JSON.",)

_UNKNOWN_ES = ("No lo sé: soy un modelo muy pequeño. Dame un texto y te digo lo que pone.",)
_UNKNOWN_EN = ("I do not know: I am a very small model. Give me a text and I will tell you what it says.",)
_OPEN_ES = (
    "¿Cuál es la capital de Francia?", "¿Cuánto es 2 + 2?", "¿Qué tiempo hace hoy?", "Cuéntame un chiste.",
    "¿Quién ganó la liga?", "Escribe un poema.", "¿Qué hora es?", "Traduce al inglés: buenos días",
    "¿Qué es un modelo?", "Dime algo interesante.", "¿Por qué el cielo es azul?",
    "Explica la fotosíntesis.", "¿Quién escribió el Quijote?", "¿Cómo se hace una tortilla?",
    "Escribe una función en Python.", "¿Cuántos años tienes?",
)  # fmt: skip
_OPEN_EN = (
    "What is the capital of France?", "What is 2 + 2?", "What is the weather like?", "Tell me a joke.",
    "Who won the match?", "Write a poem.", "What time is it?", "Why is the sky blue?", "Explain gravity.",
    "Write a Python function.", "Tell me a story.", "How old are you?",
)  # fmt: skip

SMALL_TALK: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "es": (
        ("Hola", _HELLO_ES), ("¡Hola!", _HELLO_ES), ("hola", _HELLO_ES), ("Buenos días", _HELLO_ES),
        ("Buenas", _HELLO_ES), ("Buenas tardes", _HELLO_ES), ("¿Quién eres?", (_ABOUT_ES,)),
        ("¿Qué eres?", (_ABOUT_ES,)),
        ("¿Cómo te llamas?", ("Me llamo nano.",)), ("¿Qué sabes hacer?", (_ABOUT_ES,)), ("Ayuda", _HELP_ES),
        ("¿Qué puedes hacer?", _HELP_ES), ("Gracias", ("De nada.", "¡A ti!")),
        ("Muchas gracias", ("De nada.",)),
        ("Adiós", ("¡Hasta luego!",)), ("¿Cómo estás?", ("Bien, gracias. ¿Y tú?",)),
        ("¿Qué tal?", ("Bien, gracias.",)),
        *((question, _UNKNOWN_ES) for question in _OPEN_ES),
        ("Me llamo {n}", ("¡Hola, {n}!", "Encantado, {n}.")),
        ("Hola, soy {n}", ("¡Hola, {n}!", "Encantado, {n}.")),
    ),
    "en": (
        ("Hello", _HELLO_EN), ("Hi", _HELLO_EN), ("hello", _HELLO_EN), ("Good morning", _HELLO_EN),
        ("Who are you?", (_ABOUT_EN,)), ("What can you do?", _HELP_EN),
        ("What is your name?", ("My name is nano.",)),
        ("Help", _HELP_EN), ("Thanks", ("You are welcome.",)), ("Thank you", ("You are welcome.",)),
        ("Bye", ("See you later!",)), ("How are you?", ("Fine, thank you. And you?",)),
        *((question, _UNKNOWN_EN) for question in _OPEN_EN),
        ("My name is {n}", ("Hello, {n}!", "Nice to meet you, {n}.")),
        ("Hi, I am {n}", ("Hello, {n}!",)),
    ),
}  # fmt: skip
