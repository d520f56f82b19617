"""Job files, Axolotl's and Olive's among them."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "The job file": "El fichero de trabajo",
    "{path}, line {line}: `{key}`: {reason}": "{path}, línea {line}: `{key}`: {reason}",
    "{path}: `{key}`: {reason}": "{path}: `{key}`: {reason}",
    "{path}, line {line}: {reason}": "{path}, línea {line}: {reason}",
    "{path}: a job file is a list of `key: value` lines.": (
        "{path}: un fichero de trabajo es una lista de líneas `clave: valor`."
    ),
    "{path}: nested too deeply; does an anchor hold itself?": (
        "{path}: demasiados niveles, uno dentro de otro; ¿se contiene a sí misma un ancla?"
    ),
    "{path} is not UTF-8 text.": "{path} no es texto UTF-8.",
    "{path} cannot be read: {reason}": "no se puede leer {path}: {reason}",
    "{path}, line {line}: not YAML: {reason}": "{path}, línea {line}: no es YAML: {reason}",
    "{path}: not YAML: {reason}": "{path}: no es YAML: {reason}",
    "{path}, line {line}: `{key}` is given twice (first in line {first}).": (
        "{path}, línea {line}: `{key}` está dos veces (antes, en la línea {first})."
    ),
    "unknown.": "desconocido.",
    "unknown; did you mean `{nearest}`?": "desconocido; ¿quería decir `{nearest}`?",
    "it is given twice.": "está dos veces.",
    "a list of `key: value` lines is needed.": "hace falta una lista de líneas `clave: valor`.",
    "a list of `key: value` lines": "una lista de líneas `clave: valor`",
    "{kind} is needed, not {value}.": "hace falta {kind}, no {value}.",
    "a text": "un texto",
    "true or false": "true o false",
    "a whole number": "un número entero",
    "a number above 0": "un número mayor que 0",
    "a number from 0": "un número desde 0",
    "a project's name, or its settings": "el nombre de un proyecto, o sus ajustes",
    # ------------------------------------------------------------ Axolotl
    "line {line}: `{key}` is not honoured: {reason}.": "línea {line}: `{key}` no se aplica: {reason}.",
    "epochs are whole; {count} are trained": "las épocas son enteras; se entrenan {count}",
    "{value} is not among {known}": "{value} no está entre {known}",
    "{kind} is not among {known}.": "{kind} no está entre {known}.",
    "prompts are read, never learnt; rows of `text` are learnt whole": (
        "las preguntas se leen, no se aprenden; las filas de `text` se aprenden enteras"
    ),
    "of the preference methods only `dpo` is done here.": (
        "de los métodos de preferencias, aquí solo se hace `dpo`."
    ),
    "a reward model is not trained here.": "aquí no se entrena un modelo de recompensa.",
    "{path}: `base_model` is missing.": "{path}: falta `base_model`.",
    "{path}: `datasets` is missing.": "{path}: falta `datasets`.",
    "a full fine-tune is not done here: set `adapter: lora` or `adapter: qlora`.": (
        "aquí no se ajusta el modelo entero: ponga `adapter: lora` o `adapter: qlora`."
    ),
    "a share of the steps is not known before the rows are counted": (
        "una parte de los pasos no se conoce antes de contar las filas"
    ),
    "how many steps there are is not known yet; give `warmup_ratio`": (
        "aún no se sabe cuántos pasos hay; dé `warmup_ratio`"
    ),
    "set WANDB_MODE where the server runs": "ponga WANDB_MODE donde corre el servidor",
    "without `wandb_project` nothing is sent": "sin `wandb_project` no se envía nada",
    "one process trains; `world_size` says how many shall": (
        "entrena un proceso; `world_size` dice cuántos han de ser"
    ),
    "the GGUF that is served decides it": "lo decide el GGUF que se sirve",
    "the trainer decides it by itself": "lo decide el entrenador",
    "the server keeps files, checkpoints and logs its own way": (
        "el servidor guarda ficheros, puntos de control y registros a su manera"
    ),
    "another service's, which is not called": "es de otro servicio, al que no se llama",
    "this trainer does not do it": "este entrenador no lo hace",
    # ------------------------------------------------------------ its data sets
    "a list of data sets is needed.": "hace falta una lista de conjuntos de datos.",
    "a data set needs a `path`.": "un conjunto de datos necesita `path`.",
    "a folder; name its files in `data_files`.": "es una carpeta; nombre sus ficheros en `data_files`.",
    "a file has no splits": "un fichero no tiene particiones",
    "a split is taken whole": "una partición se toma entera",
    "rows are read as they are": "las filas se leen como están",
    "answers are learnt, and nothing else": "se aprenden las respuestas y nada más",
    "some rows are always held out, for the proof and the comparison": (
        "siempre se apartan algunas filas, para la prueba y la comparación"
    ),
    "single files of a hub's data set: download them first.": (
        "ficheros sueltos de un conjunto del hub: descárguelos antes."
    ),
    "a hub's rows are taken as they are, one data set a job: download the files first.": (
        "las filas del hub se toman como están, un conjunto por trabajo: descargue antes los ficheros."
    ),
    "a hub's rows are taken as they are": "las filas del hub se toman como están",
    "a count of a hub's rows is not known; give a share": (
        "no se sabe cuántas filas hay en el hub; dé una parte"
    ),
    "its shape must be that of `datasets`: one file with the same columns.": (
        "su forma ha de ser la de `datasets`: un fichero con las mismas columnas."
    ),
    "its rows become {found}, those of `{first}` {other}: one job learns one shape.": (
        "sus filas dan {found}, las de `{first}` {other}: un trabajo aprende una sola forma."
    ),
    "{path}: rows are put into another shape from {kinds} files only.": (
        "{path}: solo se cambia la forma de las filas de ficheros {kinds}."
    ),
    "{path}: an array of rows is needed.": "{path}: hace falta una lista de filas.",
    "{path}: not CSV: {reason}": "{path}: no es CSV: {reason}",
    "{path}, line {line}: not JSON: {reason}": "{path}, línea {line}: no es JSON: {reason}",
    "{path}, line {line}: a row must be an object.": "{path}, línea {line}: una fila ha de ser un objeto.",
    "{columns} is missing": "falta {columns}",
    "`{column}` is missing or empty": "`{column}` falta o está vacío",
    "a message must be an object": "un mensaje ha de ser un objeto",
    "its messages must be a list": "sus mensajes han de ser una lista",
    # ------------------------------------------------------------ its base model
    "{wanted} is served here as {name}.": "{wanted} se sirve aquí como {name}.",
    "{wanted} is served here as several models: {names}. Say which with --base.": (
        "{wanted} se sirve aquí como varios modelos: {names}. Diga cuál con --base."
    ),
    (
        "No model here is {wanted}; there are: {names}. Find a GGUF of it with `llamaleon search "
        "{short}` and fetch it with `llamaleon pull`, or name another with --base."
    ): (
        "Ningún modelo de aquí es {wanted}; hay: {names}. Busque un GGUF suyo con `llamaleon search "
        "{short}` y tráigalo con `llamaleon pull`, o nombre otro con --base."
    ),
    # ------------------------------------------------------------ Olive
    "--{flag} is not honoured: {reason}.": "--{flag} no se aplica: {reason}.",
    "--{name} is needed.": "hace falta --{name}.",
    "--{name} needs a value.": "--{name} necesita un valor.",
    "--{name} needs a whole number, not {value}.": "--{name} necesita un número entero, no {value}.",
    "--{name} needs a number, not {value}.": "--{name} necesita un número, no {value}.",
    "--{name} is true or false, not {value}.": "--{name} es true o false, no {value}.",
    "--method is lora or qlora, not {value}.": "--method es lora o qlora, no {value}.",
    "give --text_field or --text_template, not both.": "dé --text_field o --text_template, no los dos.",
    "--data_files goes with --data_name json, csv or parquet.": (
        "--data_files va con --data_name json, csv o parquet."
    ),
    "{word}: a flag of Olive's `finetune` was expected.": (
        "{word}: se esperaba una opción del `finetune` de Olive."
    ),
}
HELP: dict[str, str] = {
    "Train as `olive finetune` does, with its flags.": "Entrena como `olive finetune`, con sus opciones.",
    (
        "Olive's own flags and those of transformers' TrainingArguments. What cannot be honoured\n"
        "is named, what is unknown is an error. The table is in docs/job-files.md."
    ): (
        "Las opciones de Olive y las de TrainingArguments de transformers. Lo que no se puede\n"
        "aplicar se nombra, lo desconocido es un error. La tabla está en docs/job-files.md."
    ),
    "that of -o": "el de -o",
    "Model to adapt, instead of --model_name_or_path.": (
        "Modelo que adaptar, en lugar de --model_name_or_path."
    ),
}
