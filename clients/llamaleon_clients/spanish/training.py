"""`train`, `jobs`, and how a job ended."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
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
    # ------------------------------------------------------------ its state
    "validating files": "comprobando las filas",
    "queued": "en cola",
    "running": "en marcha",
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
