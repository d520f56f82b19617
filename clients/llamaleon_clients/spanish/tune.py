"""The search for hyperparameters: `tune`."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "--base and --name are needed.": "hacen falta --base y --name.",
    "--learning-rate is LOW:HIGH, above 0 and up to 1, not {value}.": (
        "--learning-rate es MENOR:MAYOR, por encima de 0 y hasta 1, no {value}."
    ),
    "{option} is whole numbers from 1 with commas, not {value}.": (
        "{option} son números enteros desde 1 con comas, no {value}."
    ),
    "a search needs Optuna: pip install 'llamaleon[search]' (here: {reason}).": (
        "la búsqueda necesita Optuna: pip install 'llamaleon[search]' (aquí: {reason})."
    ),
    (
        "{path} has a search that was begun with other ranges or another seed: give those again, or another "
        "--study."
    ): (
        "{path} tiene una búsqueda que empezó con otros intervalos u otra semilla: delos de nuevo, u otro "
        "--study."
    ),
    "trial {number}: {settings}": "ensayo {number}: {settings}",
    "trial {number}: held-out loss {loss}": "ensayo {number}: pérdida en las apartadas {loss}",
    "pruned": "podado",
    "complete": "completo",
    "no trial made an adapter that may be served; nothing was deployed.": (
        "ningún ensayo dio un adaptador que se pueda servir; no se desplegó nada."
    ),
    "the adapter of the best trial is gone; nothing was deployed.": (
        "el adaptador del mejor ensayo ya no está; no se desplegó nada."
    ),
    "Trial {number} is the best: {model} is {version} now. The others were removed.": (
        "El mejor es el ensayo {number}: {model} es ahora {version}. Los demás se borraron."
    ),
    "The job goes on; the same command goes on with the search.": (
        "El trabajo sigue; la misma orden sigue con la búsqueda."
    ),
    "TRIAL": "ENSAYO",
    "LEARNING RATE": "TASA",
    "BATCH": "LOTE",
    "HELD-OUT LOSS": "PÉRDIDA",
}
HELP: dict[str, str] = {
    "Search learning rate, rank and batch size; the best one serves.": (
        "Busca tasa, rango y lote; el mejor adaptador responde."
    ),
    (
        "Every trial is a training job with the same rows held out; one that falls behind is cancelled. The "
        "search\ngoes on where it stopped when the command is given again. DATA may be a job file, for all "
        "other settings."
    ): (
        "Cada ensayo es un trabajo con las mismas filas apartadas; el que se queda atrás se cancela. La\n"
        "búsqueda sigue donde quedó si se repite la orden. DATA puede ser un\n"
        "fichero de trabajo, para lo demás."
    ),
    "File with the rows to learn from, or a job file.": (
        "Fichero con las filas de las que aprender, o de trabajo."
    ),
    "How many jobs in all.": "Cuántos trabajos en total.",
    "Tried between these.": "Se prueba entre estas.",
    "Ranks to try.": "Rangos que probar.",
    "Batch sizes to try.": "Lotes que probar.",
    "Steps of a trial, at most.": "Pasos de un ensayo, como mucho.",
    "SQLite file of the search.": "Fichero SQLite de la búsqueda.",
    "in $LLAMALEON_HOME": "en $LLAMALEON_HOME",
}
