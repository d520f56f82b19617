"""`train`, `jobs`, and how a job ended."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "A training job needs `{key}`.": "A un trabajo de entrenamiento le hace falta `{key}`.",
    "`wandb` is the name of a project, or an object with one.": (
        "`wandb` es el nombre de un proyecto, o un objeto que lo lleva."
    ),
    "No job {job}.": "No hay ningún trabajo {job}.",
    "{job} is the end of several: {jobs}.": "Varios acaban en {job}: {jobs}.",
    "Not deployed, as asked: it answers as {name}": "Sin desplegar, como se pidió: responde como {name}",
    "DATA, --base and --name are needed (or --attach JOB).": (
        "hacen falta DATA, --base y --name (o --attach TRABAJO)."
    ),
    "Job {job}: {base}": "Trabajo {job}: {base}",
    "Job {job}: {base}, adapter {adapter}": "Trabajo {job}: {base}, adaptador {adapter}",
    "Job {job}: {status}": "Trabajo {job}: {status}",
    "Job {job} goes on training; the next server finishes it.": (
        "El trabajo {job} sigue entrenando; lo terminará el próximo servidor."
    ),
    "Cancel the job as well?": "¿Cancelar también el trabajo?",
    "The job goes on. Come back with `llamaleon train --attach {job}`, end it with --cancel.": (
        "El trabajo sigue. Vuelva a él con `llamaleon train --attach {job}`; --cancel lo termina."
    ),
    "{error} The job is kept; come back with `llamaleon train --attach {job}`.": (
        "{error} El trabajo se conserva; vuelva a él con `llamaleon train --attach {job}`."
    ),
    "Deployed as {model} ({name})": "Desplegado como {model} ({name})",
    "No training jobs yet.": "Todavía no hay trabajos de entrenamiento.",
    "JOB": "TRABAJO",
    "BASE": "BASE",
    "STATUS": "ESTADO",
    "RESULT": "RESULTADO",
    "CREATED": "CREADO",
    "Rows: {train}, held out: {held_out}": "Filas: {train}; apartadas: {held_out}",
    # ------------------------------------------------------------ stored completions
    "No stored completions: ask with `store: true`.": (
        "No hay respuestas guardadas: pregunte con `store: true`."
    ),
    "COMPLETION": "RESPUESTA",
    "METADATA": "METADATOS",
    "ANSWER": "TEXTO",
    "{rows} rows in {file}": "{rows} filas en {file}",
    "{count} left out: {reason}": "{count} excluidas: {reason}",
    "{option} takes KEY=VALUE.": "{option} lleva CLAVE=VALOR.",
    "{path} cannot be written: {reason}": "no se puede escribir {path}: {reason}",
    # ------------------------------------------------------------ its state
    "validating files": "comprobando las filas",
    "queued": "en cola",
    "running": "en marcha",
    "paused": "en pausa",
    "succeeded": "terminado",
    "failed": "fallido",
    "cancelled": "cancelado",
    "step {step}": "paso {step}",
    "loss {loss}": "pérdida {loss}",
    "held-out {loss}": "apartadas {loss}",
    "{time} left": "quedan {time}",
    "converting, checking parity, comparing with the base": (
        "convirtiendo, comprobando la paridad, comparando con la base"
    ),
    # ------------------------------------------------------------ its end
    "Parity over {tokens} tokens: mean KL {mean}, largest difference {largest}": (
        "Paridad en {tokens} tokens: KL media {mean}, mayor diferencia {largest}"
    ),
    "{rows} held-out rows": "{rows} filas apartadas",
    "base": "base",
    "adapter": "adaptador",
    "loss": "pérdida",
    "exact match": "aciertos exactos",
    "valid JSON": "JSON válido",
    "no reason was given": "no se dijo por qué",
    "job {job} was cancelled.": "el trabajo {job} se canceló.",
    "job {job} failed: {reason}": "el trabajo {job} falló: {reason}",
    "the adapter was kept but not deployed: {reason}": (
        "el adaptador se guardó, pero no se desplegó: {reason}"
    ),
    "{path}, line {number}: not a chat row with an answer ({error}).": (
        "{path}, línea {number}: no es una fila de conversación con respuesta ({error})."
    ),
}
