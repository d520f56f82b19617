"""`eval`, `report`, and the figures that end a training."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "perplexity": "perplejidad",
    "liked answer likelier": "la preferida es más probable",
    "accuracy": "exactitud",
    "macro F1": "F1 macro",
    "equal as JSON": "mismo JSON",
    "field F1": "F1 por campos",
    "{low} to {high}": "{low} a {high}",
    "chance?": "¿azar?",
    "difference": "diferencia",
    "{shots} examples": "{shots} ejemplos",
    "{rows} rows": "{rows} filas",
    "Curves, answers and advice: llamaleon report {job}": (
        "Curvas, respuestas y consejos: llamaleon report {job}"
    ),
    "Saved {path}": "Guardado en {path}",
    "{done} of {total} answers and losses": "{done} de {total} respuestas y pérdidas",
    "the server stopped in the middle of the evaluation.": "el servidor se paró a mitad de la evaluación.",
    "{adapter} was trained on {rows} of these rows (line {line} ...): the figures flatter.": (
        "{adapter} se entrenó con {rows} de estas filas (línea {line}...): las cifras lo favorecen."
    ),
    "FIELD": "CAMPO",
    "PRECISION": "PRECISIÓN",
    "RECALL": "EXHAUSTIVIDAD",
}
HELP: dict[str, str] = {
    "Measure a model on the rows of DATA.": "Mide un modelo con las filas de DATA.",
    (
        "MODEL is a base, an adapter or a blend. DATA has any shape that `llamaleon train` takes. Which "
        "figures there\nare follows from the reference answers: labels, JSON or text. Intervals are of 95%."
    ): (
        "MODEL es una base, un adaptador o una mezcla. DATA puede tener cualquier forma que acepte "
        "`llamaleon train`. Las cifras dependen de las respuestas de referencia: etiquetas, JSON o texto. "
        "Los intervalos son del 95 %."
    ),
    "Model to measure.": "Modelo que se mide.",
    "Rows with the right answers.": "Filas con las respuestas correctas.",
    "Another model on the same rows.": "Otro modelo con las mismas filas.",
    "Measure once more with so many examples in the prompt.": (
        "Mide otra vez con tantos ejemplos en la pregunta."
    ),
    "File with the examples.": "Fichero con los ejemplos.",
    "what the adapter was trained on": "aquello con lo que se entrenó el adaptador",
    "Only these, separated by commas.": "Solo estas, separadas por comas.",
    "all that fit": "todas las que procedan",
    "Rows whose loss is taken.": "Filas cuya pérdida se mide.",
    "Rows that are answered.": "Filas que se responden.",
    "Save the report of a training as a page of HTML.": (
        "Guarda el informe de un entrenamiento como página HTML."
    ),
    (
        "Curves, figures with intervals, answers side by side, where it got worse, advice. The page needs "
        "no network."
    ): (
        "Curvas, cifras con intervalos, respuestas frente a frente, dónde empeoró y consejos; la página no "
        "necesita red."
    ),
    "the newest": "el más reciente",
    "Where to save it.": "Dónde guardarlo.",
    "report-JOB.html here": "report-TRABAJO.html aquí",
    "Open it in the browser as well.": "Lo abre también en el navegador.",
}
