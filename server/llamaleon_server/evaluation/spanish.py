"""The report in Spanish. A test finds sentences that are missing here, and those that nobody says."""

from __future__ import annotations

_PAGE = {
    "{name}: report": "{name}: informe",
    "Fine-tuning report": "Informe de entrenamiento",
    "on": "sobre",
    "What to make of it": "Qué se deduce",
    "Loss while training": "Pérdida durante el entrenamiento",
    "nats per token": "nats por token",
    "training, each step": "entrenamiento, en cada paso",
    "held out": "filas apartadas",
    "lowest {loss} at step {step}": "mínimo {loss} en el paso {step}",
    "Training and held-out loss by step": "Pérdida por paso, en el entrenamiento y en las filas apartadas",
    "step": "paso",
    "On rows never trained on": "En filas con las que nunca se entrenó",
    (
        "Through the adapter as it is served, with 95% intervals beneath. A difference in colour is more "
        "than chance."
    ): (
        "Con el adaptador tal como se sirve; debajo, intervalos del 95 %. Una diferencia en color es más que "
        "azar."
    ),
    "Metric": "Medida",
    "adapter − base": "adaptador − base",
    "Right label (rows) and answer (columns)": "Etiqueta correcta (filas) y respuesta (columnas)",
    "Field by field": "Campo por campo",
    "F1; precision and recall beneath": "F1; debajo, precisión y exhaustividad",
    "Field": "Campo",
    "wanted": "esperados",
    "line {line}": "línea {line}",
    "reference": "referencia",
    "nothing": "nada",
    "Where it got worse": "Dónde empeoró",
    "Side by side": "Frente a frente",
    "Greedy answers to held-out prompts.": (
        "Respuestas a las preguntas apartadas, siempre con el token más probable."
    ),
    "Marked": "Marcado",
    "not in the reference.": "no está en la referencia.",
    "Struck": "Tachado",
    "missing.": "falta.",
    "Nothing is marked where the two share little.": "Nada se marca donde las dos se parecen poco.",
    "Settings": "Ajustes",
    (
        "Intervals: Wilson's for shares of rows, Newcombe's for their paired difference, else 1,000 "
        "bootstrap samples of the rows. Differences compare the same rows."
    ): (
        "Intervalos: de Wilson para proporciones de filas, de Newcombe para su diferencia emparejada y, si "
        "no, 1000 muestras bootstrap de las filas. Las diferencias comparan las mismas filas."
    ),
    (
        "Losses are of at most 200 held-out rows and answers of at most 50, drawn at random; answers are "
        "greedy."
    ): (
        "Las pérdidas son de un máximo de 200 filas apartadas y las respuestas de un máximo de 50, "
        "elegidas al azar; las respuestas toman siempre el token más probable."
    ),
    "Job": "Trabajo",
    "model": "modelo",
    "made by Llamaleon; this page needs no network.": "hecho por Llamaleon; esta página no necesita red.",
}
_HEAD = {
    "supervised": "supervisado",
    "preferences (DPO)": "preferencias (DPO)",
    "Deployed": "Desplegado",
    "Finished, not deployed": "Terminado, sin desplegar",
    "Not deployed": "No desplegado",
    "Failed": "Fallido",
    "Cancelled": "Cancelado",
    "Validating files": "Comprobando los archivos",
    "Queued": "En cola",
    "Running": "En curso",
    "Paused": "En pausa",
    "95%: {low} to {high}": "95 %: de {low} a {high}",
    "Served as trained": "Se sirve lo entrenado",
    "mean KL {kl} per token, at most {gate}": "KL media de {kl} por token, como mucho {gate}",
    "yes": "sí",
    "no": "no",
}
_FIGURES = {
    "base": "base",
    "base, {shots} examples": "base, {shots} ejemplos",
    "adapter": "adaptador",
    "applies to: {rule}": "se aplica a: {rule}",
    "{low} to {high}": "{low} a {high}",
    "by its fields": "por sus campos",
    "another label": "otra etiqueta",
    "by its wording, chrF": "por sus palabras, chrF",
    "In {lost} of {rows} rows the adapter's answer is worse than the base's{by}.": (
        "En {lost} de {rows} filas la respuesta del adaptador es peor que la de la base{by}."
    ),
    "The {count} worst are shown.": "Se muestran las {count} peores.",
    "The reference became less likely in {dearer} of {rows} rows.": (
        "La referencia se volvió menos probable en {dearer} de {rows} filas."
    ),
    "exact": "exacta",
    "{count} more characters": "{count} caracteres más",
}
_METRICS = {
    "Loss": "Pérdida",
    "Perplexity": "Perplejidad",
    "Liked answer likelier": "La preferida es más probable",
    "Exact match": "Coincidencia exacta",
    "Accuracy": "Aciertos",
    "Macro F1": "F1 macro",
    "Valid JSON": "JSON válido",
    "Equal as JSON": "Mismo JSON",
    "Field F1": "F1 por campos",
    "every row": "todas las filas",
    "every row that has an answer to generate": "todas las filas con una respuesta que generar",
    "every reference is a JSON object or list": "todas las referencias son un objeto o una lista JSON",
    "the references are neither labels nor JSON": "las referencias no son ni etiquetas ni JSON",
    "rows that say which of two answers is liked better": (
        "filas que dicen cuál de dos respuestas se prefiere"
    ),
    (
        "the references are from 2 to 20 different lines of at most 60 characters, with at least 2 rows to "
        "each on average"
    ): (
        "las referencias son de 2 a 20 líneas distintas de 60 caracteres como mucho, con al menos 2 filas de "
        "cada una en promedio"
    ),
    "(none of them)": "(ninguna)",
}
_ADVICE = {
    "Better than the base": "Mejor que la base",
    "{change}, and {rows} held-out rows are enough to tell.": (
        "{change}, y {rows} filas apartadas bastan para afirmarlo."
    ),
    "Worse than the base": "Peor que la base",
    "{change}. Check that the rows say what you want, then the learning rate and the epochs.": (
        "{change}. Comprueba que las filas dicen lo que quieres; después, la tasa de aprendizaje y las "
        "épocas."
    ),
    "Too few held-out rows for this claim": "Pocas filas apartadas para afirmarlo",
    (
        "{change}, but with {rows} rows that may be chance: the interval of the difference holds zero. Hold "
        "more rows out (held_out_fraction), or give a validation_file."
    ): (
        "{change}, pero con {rows} filas puede ser azar: el intervalo de la diferencia contiene el cero. "
        "Aparta más filas (held_out_fraction) o da un validation_file."
    ),
    "{metric} {few_shot} against {adapter}": "{metric} {few_shot} frente a {adapter}",
    "Try prompting first": "Prueba antes con ejemplos",
    "The base with {shots} examples in its prompt does better than the adapter: {figures}.": (
        "La base con {shots} ejemplos en la pregunta lo hace mejor que el adaptador: {figures}."
    ),
    (
        "The base with {shots} examples in its prompt is about as good as the adapter: {figures}. The "
        "adapter saves those tokens in every request; if that does not matter, you may not need it."
    ): (
        "La base con {shots} ejemplos en la pregunta es más o menos igual de buena que el adaptador: "
        "{figures}. El adaptador ahorra esos tokens en cada petición; si eso no importa, quizá no lo "
        "necesites."
    ),
    "Prompting alone is not enough": "Con ejemplos no basta",
    "The base with {shots} examples in its prompt does not get as far: {figures}.": (
        "La base con {shots} ejemplos en la pregunta no llega tan lejos: {figures}."
    ),
    "Over-fitting": "Sobreajuste",
    (
        "The held-out loss was lowest at step {step} ({best}) and rose to {last}, while the training loss "
        "fell from {before} to {after}. Train fewer epochs, keep the best checkpoint (load_best), stop early "
        "(early_stopping_patience), or add rows."
    ): (
        "La pérdida en las filas apartadas tuvo su mínimo en el paso {step} ({best}) y subió a {last}, "
        "mientras la del entrenamiento bajaba de {before} a {after}. Entrena menos épocas, quédate con el "
        "mejor punto de control (load_best), para antes (early_stopping_patience) o añade filas."
    ),
    "Not finished learning": "Aún aprendía",
    "The held-out loss was still falling at the last step ({last}): more epochs may help.": (
        "La pérdida en las filas apartadas aún bajaba en el último paso ({last}): más épocas pueden ayudar."
    ),
    "Held-out rows were seen in training": "Filas apartadas que se vieron en el entrenamiento",
    "{rows} rows are few: below {enough}, expect an adapter that repeats its rows.": (
        "{rows} filas son pocas: con menos de {enough}, el adaptador tenderá a repetirlas."
    ),
    "Few rows": "Pocas filas",
    "Every figure here is of {rows} held-out rows: read the intervals, not the figures.": (
        "Todas las cifras son de {rows} filas apartadas: lee los intervalos, no las cifras."
    ),
    "Few held-out rows": "Pocas filas apartadas",
    "{metric} of the adapter is between {low} and {high}.": ("{metric} del adaptador: entre {low} y {high}."),
    "A rough figure": "Una cifra aproximada",
    "Said while the job ran": "Aviso durante el trabajo",
}
SENTENCES: dict[str, str] = {**_PAGE, **_HEAD, **_FIGURES, **_METRICS, **_ADVICE}

# What jobs record in English, by sentences: reasons and warnings. Those of single failures stay as they are.
RECORDED: dict[str, str] = {
    "{count} training rows repeat an earlier one.": ("{count} filas de entrenamiento repiten una anterior."),
    "{count} held-out rows are also trained on (lines {lines}): the evaluation flatters.": (
        "Con {count} filas apartadas también se entrena (líneas {lines}): la evaluación favorece al "
        "adaptador."
    ),
    "More than {count} rows: near-duplicates were not looked for.": (
        "Más de {count} filas: no se buscaron las casi repetidas."
    ),
    (
        "{count} held-out rows are near-duplicates of rows that are trained on (lines {lines}; at least "
        "{share} alike): the evaluation flatters."
    ): (
        "{count} filas apartadas casi repiten otras con las que se entrena (líneas {lines}; parecidas al "
        "menos en un {share}): la evaluación favorece al adaptador."
    ),
    (
        "the held-out loss rose from {best} at step {step} to {last}: fewer epochs, a lower learning rate or "
        "more rows would generalise better"
    ): (
        "La pérdida en las filas apartadas subió de {best} en el paso {step} a {last}: menos épocas, una "
        "tasa de aprendizaje menor o más filas generalizarían mejor."
    ),
    (
        "stopped early at step {step} of {steps}: the held-out loss was not lower in the last {count} "
        "evaluations"
    ): (
        "Parada temprana en el paso {step} de {steps}: la pérdida en las filas apartadas no bajó en las "
        "últimas {count} evaluaciones."
    ),
    (
        "The served adapter does not compute what was trained: mean KL {kl} per token, more than {gate}."
    ): "El adaptador que se sirve no calcula lo que se entrenó: KL media de {kl} por token, más de {gate}.",
    "The adapter's {metric} on held-out rows is not a number.": (
        "La medida {metric} del adaptador en las filas apartadas no es un número."
    ),
    "{asked} does not apply to these rows, so {metric} decides.": (
        "{asked} no se aplica a estas filas, así que decide {metric}."
    ),
    ("On held-out rows the adapter is worse than the base: {metric} {after} against {before} of the base."): (
        "En las filas apartadas el adaptador es peor que la base: {metric} {after} frente a {before} de la "
        "base."
    ),
    (
        "On held-out rows the adapter is worse than the base by more than {margin}: {metric} {after} against "
        "{before} of the base."
    ): (
        "En las filas apartadas el adaptador es peor que la base por más de {margin}: {metric} {after} "
        "frente a {before} de la base."
    ),
    (
        "On held-out rows the adapter is not better than the base by {margin}: {metric} {after} against "
        "{before} of the base."
    ): (
        "En las filas apartadas el adaptador no supera a la base por {margin}: {metric} {after} frente a "
        "{before} de la base."
    ),
    "out of memory with {rows} rows a pass: going on with {fewer}": (
        "Sin memoria con {rows} filas por pasada: se sigue con {fewer}."
    ),
    "out of memory with one row a pass: recomputing activations from now on, which is slower": (
        "Sin memoria con una fila por pasada: desde aquí se recalculan las activaciones, que es más lento."
    ),
    (
        "not even one row fits into memory: lower `max_sequence_tokens` or `lora.r`, use precision bfloat16, "
        "or a smaller base"
    ): (
        "Ni una fila cabe en la memoria: baja `max_sequence_tokens` o `lora.r`, usa la precisión bfloat16 o "
        "una base más pequeña."
    ),
    (
        "the base does not fit into memory ({error}); use `base_weights` gguf, a smaller base, or a device "
        "with more memory"
    ): (
        "La base no cabe en la memoria ({error}); usa `base_weights` gguf, una base más pequeña o un "
        "dispositivo con más memoria."
    ),
    (
        "the loss is not a number at step {step}: lower `learning_rate` (now {rate}) or raise "
        "`warmup_fraction`"
    ): (
        "En el paso {step} la pérdida o el gradiente no es un número: baja `learning_rate` (ahora {rate}) o "
        "sube `warmup_fraction`."
    ),
    (
        "the held-out loss is not a number at step {step}: lower `learning_rate` (now {rate}) or raise "
        "`warmup_fraction`"
    ): (
        "En el paso {step} la pérdida en las filas apartadas no es un número: baja `learning_rate` (ahora "
        "{rate}) o sube `warmup_fraction`."
    ),
    "no logits of the served base to compare with: the base is not proved": (
        "No hay logits de la base servida con que comparar: la base no está comprobada."
    ),
    (
        "the base loaded for training is not the one that is served: mean KL {kl} per token over {tokens} "
        "tokens, at most {limit} is allowed."
    ): (
        "La base cargada para entrenar no es la que se sirve: KL media de {kl} por token en {tokens} tokens, "
        "como mucho se admite {limit}."
    ),
    (
        "Train from the GGUF itself, or from the very Hugging Face directory that it was made from."
    ): "Entrena con el propio GGUF, o con el directorio de Hugging Face del que se hizo.",
    "The trainer died {count} times.": "El entrenador murió {count} veces.",
    "Its last words: {words}": "Sus últimas palabras: {words}",
}
