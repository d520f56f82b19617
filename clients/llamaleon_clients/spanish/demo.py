"""`demo`, step by step."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "Server at {url}, files in {folder} ({time})": "Servidor en {url}, ficheros en {folder} ({time})",
    "Done in {time}.": "Hecho en {time}.",
    "The server goes on. Stop it with: {command}": "El servidor sigue. Deténgalo con: {command}",
    "1. Ask the base model, {base}, for the fields of a report": (
        "1. Pedir al modelo base, {base}, los campos de un parte"
    ),
    "a report never trained on": "un parte con el que nunca se entrenó",
    "first answer of the base (loads the model)": "primera respuesta de la base (carga el modelo)",
    "2. Train {adapter} on {rows} other reports": "2. Entrenar {adapter} con otros {rows} partes",
    "training, parity check, deployment": "entrenamiento, prueba de paridad, despliegue",
    "3. Ask again: same question, same server, another name": (
        "3. Volver a preguntar: la misma pregunta, el mismo servidor, otro nombre"
    ),
    "first answer of the adapter": "primera respuesta del adaptador",
    "asked through {client}": "preguntado con {client}",
    "plain HTTP (the openai package is not installed)": "HTTP sin más (el paquete openai no está instalado)",
    "the openai package {version}, unchanged": "el paquete openai {version}, sin cambios",
    "(an empty answer)": "(una respuesta vacía)",
    "exact": "exacta",
    "wrong": "equivocada",
    "4. The same for all {rows} held-out reports": "4. Lo mismo con los {rows} partes apartados",
    "{rows} answers of {model}, {many} at a time": "{rows} respuestas de {model}, {many} a la vez",
    "valid JSON, right fields": "JSON válido, campos correctos",
    "time": "tiempo",
    "5. Use it from Python, while the server runs (`--keep` leaves it running)": (
        "5. Usarlo desde Python, mientras el servidor corre (`--keep` lo deja en marcha)"
    ),
    "{base} is a demonstration. With a model of yours:": "{base} es una demostración. Con un modelo suyo:",
    "only {right} of {rows} held-out reports came out right; {wanted} are expected.": (
        "solo {right} de los {rows} partes apartados salieron bien; se espera el {wanted}."
    ),
}
