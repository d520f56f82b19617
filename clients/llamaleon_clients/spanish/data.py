"""`data check`, and rows that come from the hub."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "Fetching {name} from the hub.": "Descargando {name} del hub.",
    "Columns that are no text were left out: {columns}.": (
        "Se han omitido las columnas que no son texto: {columns}."
    ),
    "{rows} rows.": "{rows} filas.",
    "A job can train on these rows.": "Un trabajo puede entrenar con estas filas.",
    "A job would refuse these rows.": "Un trabajo rechazaría estas filas.",
    "{rows} rows ({shape})": "{rows} filas ({shape})",
    "messages: {counts}": "mensajes: {counts}",
    "rows: {counts}": "filas: {counts}",
    "{train} to train on, {held} held out": "{train} para entrenar, {held} apartadas",
    "Tokens of a row": "Tokens por fila",
    "Characters of a row": "Caracteres por fila",
    "{shortest} to {longest}, median {median}; {total} in all, {learned} learned": (
        "de {shortest} a {longest}, mediana {median}; {total} en total, {learned} se aprenden"
    ),
    "texts longer than {limit} are learnt in pieces": "los textos de más de {limit} se aprenden por partes",
    "longest allowed: {limit}": "máximo permitido: {limit}",
    "training: about {memory} and {time}": "entrenamiento: unos {memory} y {time}",
    "training: about {memory}; the time is known once a job ran here": (
        "entrenamiento: unos {memory}; el tiempo se sabrá cuando un trabajo haya entrenado aquí"
    ),
    "what is learned is green": "lo que se aprende, en verde",
    "what is learned stands in ⟦ ⟧": "lo que se aprende, entre ⟦ ⟧",
    "First rows": "Primeras filas",
    "line {line}": "línea {line}",
    "liked less": "la peor",
    "{file}: {count} malformed": "{file}: {count} mal formadas",
    "rows that the chat template refuses: {count}": "filas que la plantilla de conversación rechaza: {count}",
    "rows longer than {limit} tokens: {count}": "filas de más de {limit} tokens: {count}",
    "Only {rows} rows: expect an adapter that overfits.": (
        "Solo {rows} filas: es de esperar un adaptador sobreajustado."
    ),
    "{some} of {rows} rows are preference rows.": "{some} de {rows} filas son de preferencias.",
    "The method dpo needs rows with a better and a worse answer.": (
        "El método dpo necesita filas con una respuesta mejor y otra peor."
    ),
    "These rows have two answers each: they need --method dpo.": (
        "Estas filas tienen dos respuestas cada una: necesitan --method dpo."
    ),
    "These rows have two answers each: train with --method dpo.": (
        "Estas filas tienen dos respuestas cada una: entrene con --method dpo."
    ),
    "rows that repeat an earlier one: {count}": "filas que repiten otra anterior: {count}",
    "near-duplicates of another row (at least {share} alike): {count}": (
        "filas casi iguales a otra (al menos al {share}): {count}"
    ),
    "held-out rows that are also trained on: {count}": (
        "filas apartadas que están también en el entrenamiento: {count}"
    ),
    "held-out rows that are near-duplicates of rows trained on: {count}": (
        "filas apartadas casi iguales a otras del entrenamiento: {count}"
    ),
    "lines {pairs}": "líneas {pairs}",
    "line {line}: {reason}": "línea {line}: {reason}",
    "row {line}: {reason}": "fila {line}: {reason}",
    "and {more} more": "y {more} más",
    "conversations": "conversaciones",
    "prompt and completion": "prompt y respuesta",
    "plain text": "texto",
    "two answers": "dos respuestas",
    "with system prompt": "con mensaje de sistema",
    "several turns": "varios turnos",
    "with tools": "con herramientas",
    "with weights": "con pesos",
}
HELP: dict[str, str] = {
    "Look at data before training on it.": ("Examina los datos antes de entrenar con ellos."),
    "With --base, lengths are in that model's tokens and rows are shown as it will read them.": (
        "Con --base, las longitudes se dan en tokens de ese modelo y las filas, tal como las leerá."
    ),
    "Count, measure and compare the rows of FILE; name what is wrong.": (
        "Cuenta, mide y compara las filas de FILE; dice qué falla."
    ),
    (
        "FILE is .jsonl, .json, .csv or .parquet, hf:OWNER/NAME:SPLIT, or the id of a file of the server. "
        "Ends with\nstatus 1 if a job would refuse the rows."
    ): (
        "FILE es .jsonl, .json, .csv o .parquet, hf:OWNER/NAME:SPLIT o el id de un fichero del servidor. "
        "Acaba\ncon estado 1 si un trabajo rechazaría las filas."
    ),
    "Rows to look at.": ("Filas que examinar."),
    "Model that would learn them.": ("Modelo que las aprendería."),
    "Of the job that is planned.": ("El del trabajo previsto."),
    "Rows to show.": ("Filas que mostrar."),
}
