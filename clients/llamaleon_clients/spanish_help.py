"""Spanish help texts, by their English pieces (translated.py). A test finds those that are missing."""

from __future__ import annotations

from llamaleon_clients.spanish import adapters, data, evaluation, jobfiles, server, sharing, tune, versions

TEXTS: dict[str, str] = {
    # ------------------------------------------------------------ the whole
    "Train LoRA adapters and chat with them: one GGUF model, any number of adapters, one local server.": (
        "Entrene adaptadores LoRA y converse con ellos: un modelo GGUF, los adaptadores que quiera, un "
        "servidor local."
    ),
    "Try `llamaleon demo`: it trains an adapter and compares the answers, offline, in a few minutes.": (
        "Pruebe `llamaleon demo`: entrena un adaptador y compara las respuestas, sin red, en pocos minutos."
    ),
    "Show this message and exit.": "Muestra esta ayuda.",
    "Print the version.": "Escribe la versión.",
    "Key of the server.": "Clave del servidor.",
    "Print JSON for scripts.": "Escribe JSON, para otros programas.",
    "Server to talk to. Default: the one of $LLAMALEON_HOME, started if none runs.": (
        "Servidor con el que hablar. Por defecto, el de $LLAMALEON_HOME; si no hay ninguno, se arranca."
    ),
    # ------------------------------------------------------------ defaults
    "a temporary one, removed afterwards": "una temporal, que luego se borra",
    "automatic": "automático",
    "HF_TOKEN of the server": "HF_TOKEN del servidor",
    "recognised": "se reconoce",
    "as many as fit": "las que quepan",
    "as the GGUF says": "lo que diga el GGUF",
    "what fits": "lo que quepa",
    "on": "sí",
    "what fits, at most 32768": "lo que quepa, 32768 como mucho",
    "one beside it that fits": "uno que encaje y esté a su lado",
    "by free memory": "según la memoria libre",
    "4/5 of what is free": "4/5 de la libre",
    "adapter.gguf in PEFT_DIR": "adapter.gguf en PEFT_DIR",
    # ------------------------------------------------------------ recipes
    "Train one of five recipes: data, adapter, figures.": (
        "Entrena una de cinco recetas: datos, adaptador, cifras."
    ),
    (
        "\b\nThe five:\n"
        "  stoic      a worry -> an answer in the manner of Marcus Aurelius\n"
        "  tickets    a message -> urgente, ventas, soporte técnico or spam\n"
        "  extractor  a project report -> one JSON object\n"
        "  code       a description -> a small Python function\n"
        "  tone       an informal message -> a formal mail"
    ): (
        "\b\nLas cinco:\n"
        "  stoic      una preocupación -> una respuesta a la manera de Marco Aurelio\n"
        "  tickets    un mensaje -> urgente, ventas, soporte técnico o spam\n"
        "  extractor  un parte de proyecto -> un objeto JSON\n"
        "  code       una descripción -> una pequeña función de Python\n"
        "  tone       un mensaje informal -> un correo formal"
    ),
    (
        "The rows are written to a folder, for you to look at, to change and to train again with `llamaleon "
        "train`."
    ): (
        "Las filas se escriben en una carpeta: puede mirarlas, cambiarlas y volver a entrenar con `llamaleon "
        "train`."
    ),
    "Which of the five.": "Cuál de las cinco.",
    "Folder for the rows.": "Carpeta para las filas.",
    "Rows to train on.": "Filas para entrenar.",
    "Rows to judge by.": "Filas para juzgar.",
    "Write the rows and stop.": "Escribe las filas y termina.",
    "the recipe's": "las de la receta",
    # ------------------------------------------------------------ stored completions
    "Stored chat completions, as training data.": "Respuestas guardadas, para entrenar.",
    "`export` makes a file on the server, whose id the fine-tuning API takes; --out writes it here, too.": (
        "`export` crea en el servidor un fichero cuyo identificador acepta la API de ajuste fino; --out lo "
        "escribe también aquí."
    ),
    "Only those with this pair; may be repeated.": "Solo las que tienen este par; puede repetirse.",
    "Only those asked of this model.": "Solo las que se pidieron a este modelo.",
    "At most so many.": "Como mucho, estas.",
    "The newest stored completions.": "Las respuestas guardadas más recientes.",
    "Make a training file of stored completions.": "Crea con ellas un fichero de entrenamiento.",
    "Pairs of the better answers, for rows of preferences.": (
        "Pares de las respuestas mejores, para filas de preferencias."
    ),
    "Pairs of the worse answers.": "Pares de las respuestas peores.",
    "Write the rows to this file, too.": "Escribe además las filas en este fichero.",
    "Ids, as `stored list` shows them.": "Identificadores, como los muestra `stored list`.",
    "Forget stored completions.": "Olvida respuestas guardadas.",
    # ------------------------------------------------------------ demo, train, jobs
    "See the whole loop, offline, in a few minutes.": "El ciclo entero, sin red, en pocos minutos.",
    (
        "The small model that ships with Llamaleon is asked for the fields of a report, learns it from 400 "
        "examples,\nand is asked again."
    ): (
        "Al pequeño modelo que acompaña a Llamaleon se le piden los campos de un parte, los aprende de 400 "
        "ejemplos\ny se le vuelven a pedir."
    ),
    "Folder for its files.": "Carpeta para sus ficheros.",
    "Leave the server and its files for you to try.": "Deja el servidor y sus ficheros para que pruebe.",
    "Train a LoRA adapter on DATA and serve it as BASE+NAME.": (
        "Entrena un adaptador con DATA y lo sirve como BASE+NOMBRE."
    ),
    (
        "DATA is .jsonl, .json, .csv or .parquet, hf:OWNER/NAME:SPLIT, or a job file (.yml: ours or\n"
        "Axolotl's), which flags go over. Every row is checked before training starts. Rows are held out to\n"
        "compare the adapter with its base; one that does worse is not deployed. What is not given follows\n"
        "from the sizes of the data and of the model."
    ): (
        "DATA es .jsonl, .json, .csv o .parquet, hf:DUEÑO/NOMBRE:PARTE, o un fichero de trabajo (.yml:\n"
        "nuestro o de Axolotl), sobre el que mandan las opciones. Toda fila se comprueba antes de entrenar.\n"
        "Algunas se apartan para comparar el adaptador con su base; el que lo hace peor no se despliega.\n"
        "Lo que no se indica se deduce del tamaño de los datos y del modelo."
    ),
    "Rows to learn from, or a job file.": "Filas de las que aprender, o un fichero de trabajo.",
    "Model to adapt: a name or a GGUF file; an adapter is trained on.": (
        "Modelo que adaptar: un nombre o un GGUF; un adaptador se sigue entrenando."
    ),
    "Model to adapt: a name, or the path of a GGUF file.": (
        "Modelo que adaptar: un nombre, o la ruta de un GGUF."
    ),
    "Makes a text of each row: 'Q: {question}\\nA: {answer}'.": (
        "Hace un texto de cada fila: 'P: {pregunta}\\nR: {respuesta}'."
    ),
    "Longest row.": "La fila más larga.",
    "2048, or the model's context": "2048, o el contexto del modelo",
    "dpo: from pairs of a better and a worse answer.": "dpo: de pares de respuestas, una mejor que otra.",
    "Ends the job before its epochs do.": "Acaba el trabajo antes que sus épocas.",
    "Measure a good one first.": "Antes mide una buena.",
    "cosine, linear, constant.": "cosine, linear, constant.",
    "cosine": "cosine",
    "Part of the steps in which it rises.": "Parte de los pasos en que sube.",
    "adamw, adamw_8bit, paged_adamw, paged_adamw_8bit.": "adamw, adamw_8bit, paged_adamw, paged_adamw_8bit.",
    "adamw": "adamw",
    "Of dpo: how closely it stays to its beginning.": "De dpo: cuánto se atiene a su principio.",
    "0 to 0.9.": "De 0 a 0.9.",
    "Noise on the embeddings.": "Ruido en los embeddings.",
    "none": "ninguno",
    "End after so many held-out losses that were no better.": (
        "Acaba tras tantas pérdidas apartadas que no mejoran."
    ),
    "Which checkpoint is kept.": "Qué punto de control se queda.",
    "last": "el último",
    "Of its input, 0 to 0.9.": "De su entrada, de 0 a 0.9.",
    "all-linear, or q_proj,v_proj,...": "all-linear, o q_proj,v_proj,...",
    "what GGUF can express": "lo que GGUF puede expresar",
    "Scale by the root of the rank.": "Escala con la raíz del rango.",
    "off": "no",
    "Quantised base: bitsandbytes' NF4, or the served GGUF's own blocks.": (
        "Base cuantizada: NF4 de bitsandbytes, o los bloques del GGUF que se sirve."
    ),
    "Several rows in one sequence.": "Varias filas en una secuencia.",
    "Rows of one pass.": "Filas de una pasada.",
    "Less memory, slower.": "Menos memoria, más lento.",
    "float32, bfloat16.": "float32, bfloat16.",
    "Processes on this machine.": "Procesos en esta máquina.",
    "Write its files into the job's folder.": "Escribe sus ficheros en la carpeta del trabajo.",
    "Report to Weights & Biases.": "Informa a Weights & Biases.",
    "Only register it: NAME keeps its meaning.": "Solo lo registra: NOMBRE sigue siendo lo que era.",
    "Any other setting of the API. Repeatable.": "Cualquier otro ajuste de la API. Repetible.",
    "Do not wait for its end.": "No espera a que acabe.",
    # ------------------------------------------------------------ jobs
    "Training jobs: list, follow, pause, resume, cancel.": (
        "Trabajos de entrenamiento: ver, pausar, reanudar, cancelar."
    ),
    (
        "JOB may be shortened to any end of its id that only one of the newest jobs has; left out, it is the "
        "newest."
    ): (
        "JOB puede ser solo el final de su identificador, si lo tiene uno solo de los últimos; sin él, es el "
        "último."
    ),
    "The newest training jobs.": "Los trabajos de entrenamiento más recientes.",
    "What a job was asked for, and how it stands.": "Lo que se pidió a un trabajo, y cómo va.",
    "Everything that happened to a job.": "Todo lo que le pasó a un trabajo.",
    "Stop a job at a checkpoint, to go on another time.": (
        "Detiene un trabajo en un punto de control, para seguir otro día."
    ),
    "Let a paused job go on where it stopped.": "Deja que un trabajo en pausa siga donde se quedó.",
    "End a job; its checkpoints stay.": "Acaba un trabajo; sus puntos de control quedan.",
    "Id of the job, or its end.": "Identificador del trabajo, o su final.",
    "Go on with what comes, until the job ends.": "Sigue con lo que venga, hasta que acabe.",
    "share (train beside the models), yield (they leave for it), wait (until nobody is served).": (
        "share (entrena junto a los modelos), yield (le dejan sitio), wait (hasta que no se atienda a nadie)."
    ),
    "Told how jobs, batches and background responses end. Repeatable.": (
        "Se le avisa de cómo acaban los trabajos, los lotes y las respuestas en segundo plano. Repetible."
    ),
    "What signs that.": "Con qué se firma eso.",
    "webhook.secret in the home": "webhook.secret en la carpeta",
    "Name of the new adapter.": "Nombre del nuevo adaptador.",
    "File with the rows to hold out.": "Fichero con las filas que apartar.",
    "Part of DATA to hold out when there is no --valid.": "Parte de DATA que apartar si no hay --valid.",
    "Times through the data.": "Épocas: pasadas por los datos.",
    "Rows of one step.": "Filas de un paso.",
    "At its highest.": "En su punto más alto.",
    "Rank of the adapter.": "Rango del adaptador.",
    "LoRA alpha: its strength is alpha/rank.": "Alfa de LoRA: su fuerza es alfa/rango.",
    "Same seed, same split and order.": "Misma semilla, mismo reparto y mismo orden.",
    "Follow a job that runs, or show how it ended.": "Sigue un trabajo en marcha, o muestra cómo acabó.",
    "Cancel a job.": "Cancela un trabajo.",
    # ------------------------------------------------------------ run, chat
    "Chat with a model; it is pulled first if it is not here.": (
        "Conversa con un modelo; si no está aquí, antes lo descarga."
    ),
    "Name, path of a GGUF file, or what `pull` takes.": "Nombre, ruta de un GGUF, o lo que admite `pull`.",
    "Ask this and leave.": "Pregunta esto y termina.",
    "System message.": "Mensaje de sistema.",
    "0: always the likeliest word.": "0: siempre la palabra más probable.",
    "Longest answer, in tokens.": "Respuesta más larga, en tokens.",
    "Chat with a model or an adapter.": "Conversa con un modelo o un adaptador.",
    "In the conversation: /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.": (
        "En la conversación: /help enumera las órdenes, Ctrl-C detiene una respuesta, Ctrl-D sale."
    ),
    "Name as `ls` shows it, or the path of a GGUF file.": "Nombre como en `ls`, o la ruta de un GGUF.",
    # ------------------------------------------------------------ what is served
    "Serve an adapter or a model under a name.": "Sirve un adaptador o un modelo con un nombre.",
    "An adapter is a GGUF LoRA file or a PEFT directory; with --model, PATH is a whole GGUF model.": (
        "Un adaptador es un fichero LoRA GGUF o una carpeta PEFT; con --model, PATH es un modelo GGUF entero."
    ),
    "Name to answer to.": "Nombre por el que responde.",
    "GGUF LoRA file, PEFT directory, or hf:OWNER/NAME.": (
        "Fichero LoRA GGUF, carpeta PEFT, o hf:DUEÑO/NOMBRE."
    ),
    "Its base model, by name or GGUF path.": "Su modelo base, por nombre o ruta de GGUF.",
    "PATH is a whole GGUF model, not an adapter.": "PATH es un modelo GGUF entero, no un adaptador.",
    "mmproj file of the --model.": "Fichero mmproj del --model.",
    "Replace an adapter of that name.": "Sustituye un adaptador de ese nombre.",
    "List the models and adapters that answer.": "Los modelos y adaptadores que responden.",
    "Show the models in memory, and what they are doing.": "Los modelos en memoria, y qué hacen.",
    "Keep an adapter in memory, whatever else is asked for.": (
        "Mantiene un adaptador en memoria, se pida lo que se pida."
    ),
    "An adapter: BASE+ADAPTER, ADAPTER, or one version with @3.": (
        "Un adaptador: BASE+ADAPTADOR, ADAPTADOR, o una versión con @3."
    ),
    "Let an adapter leave memory again when others need the room.": (
        "Deja que un adaptador ceda su sitio en memoria a otros."
    ),
    "Show what is known about a model or an adapter.": "Lo que se sabe de un modelo o un adaptador.",
    "A model or an adapter, as `ls` names it.": "Un modelo o adaptador, como lo llama `ls`.",
    "Print the Modelfile that makes it again.": "Escribe el Modelfile que lo vuelve a crear.",
    "Forget a model or an adapter.": "Olvida un modelo o un adaptador.",
    (
        "A base model's file stays where it is, and so does what a made model was made of; an adapter's copy "
        "is\ndeleted."
    ): (
        "El fichero de un modelo base se queda donde está, y también aquello de lo que se hizo un modelo "
        "creado;\nla copia de un adaptador se borra."
    ),
    "Do not ask.": "No pregunta.",
    "Let another name mean the same.": "Da otro nombre a lo mismo.",
    "An alias of a base or an adapter, a copy of a made model.": (
        "Un alias de una base o un adaptador, una copia de un modelo creado."
    ),
    "A model of any kind, as `ls` names it.": "Un modelo de cualquier clase, como lo llama `ls`.",
    "Its other name.": "Su otro nombre.",
    "Make a model of a Modelfile.": "Crea un modelo a partir de un Modelfile.",
    "It is a name for a base, adapters on it, and what goes with every chat.": (
        "Es un nombre para una base, sus adaptadores y lo que acompaña a cada conversación."
    ),
    (
        "\b\nA Modelfile:\n"
        "  FROM nano                      a model of any kind, or ./file.gguf\n"
        "  ADAPTER ./poet.gguf            any number, with weights: ADAPTER sql*0.5\n"
        "  PARAMETER temperature 0.7      num_ctx, top_p, stop, seed, ...\n"
        "  SYSTEM You are Mario."
    ): (
        "\b\nUn Modelfile:\n"
        "  FROM nano                      cualquier modelo, o ./fichero.gguf\n"
        "  ADAPTER ./poet.gguf            los que quiera, con pesos: ADAPTER sql*0.5\n"
        "  PARAMETER temperature 0.7      num_ctx, top_p, stop, seed, ...\n"
        "  SYSTEM Eres Mario."
    ),
    "The Modelfile; - reads standard input.": "El Modelfile; - lee la entrada estándar.",
    # ------------------------------------------------------------ pull, search
    "Fetch a model and serve it.": "Descarga un modelo y lo sirve.",
    "What breaks off goes on where it stopped, also another day.": (
        "Lo que se corta sigue donde se quedó, también otro día."
    ),
    "OWNER/REPO[:QUANT], a link to a file, or NAME[:TAG] of Ollama.": (
        "DUEÑO/REPO[:CUANT], un enlace a un fichero, o NOMBRE[:ETIQUETA] de Ollama."
    ),
    "Ask there instead of the public hub or registry.": "Pide ahí y no al hub o registro público.",
    "For gated and private models.": "Para modelos restringidos y privados.",
    "Without a quantisation, the one that fits this machine; NAME:TAG is Ollama's registry.": (
        "Sin cuantización, la que encaje en esta máquina; NOMBRE:ETIQUETA es el registro de Ollama."
    ),
    "Search the Hugging Face hub for GGUF models.": "Busca modelos GGUF en el hub de Hugging Face.",
    "Words of the name.": "Palabras del nombre.",
    "How many repositories.": "Cuántos repositorios.",
    # ------------------------------------------------------------ convert, logs, completion, keys
    "Turn a PEFT directory into a GGUF LoRA file, without a server.": (
        "Convierte una carpeta PEFT en un LoRA GGUF, sin servidor."
    ),
    "What GGUF cannot express is refused with the reason.": (
        "Lo que GGUF no puede expresar se rechaza, y se dice por qué."
    ),
    "Directory with adapter_config.json.": "Carpeta con adapter_config.json.",
    "GGUF file of the base model.": "Fichero GGUF del modelo base.",
    "File to write.": "Fichero que escribir.",
    "Multiply the effect of the adapter.": "Multiplica el efecto del adaptador.",
    "Show the log of the server that was started in the background.": (
        "El registro del servidor arrancado en segundo plano."
    ),
    "Go on with what comes, until Ctrl-C.": "Sigue con lo que venga, hasta Ctrl-C.",
    "So many of the last lines.": "Tantas de las últimas líneas.",
    "Print the completion script of a shell.": "Escribe el guion de autocompletado de un intérprete.",
    "Which shell.": "Qué intérprete.",
    "API keys of this machine's server.": "Claves del servidor de esta máquina.",
    "With the first key, every request needs one.": "Desde la primera, toda petición necesita una.",
    "Clients send it as api_key; this command takes it from $LLAMALEON_API_KEY or `llamaleon --api-key`.": (
        "Los clientes la envían como api_key; esta orden la toma de $LLAMALEON_API_KEY o de "
        "`llamaleon --api-key`."
    ),
    "Make a key; it is shown this once.": "Crea una clave; solo se muestra esta vez.",
    "What the key is for.": "Para qué es la clave.",
    "use (chat), train (and fine-tune), admin (and change what is served).": (
        "use (conversar), train (y entrenar), admin (y cambiar lo que se sirve)."
    ),
    "Names, scopes and last use of all keys.": "Nombres, permisos y último uso de todas las claves.",
    "Refuse a key from now on.": "Rechaza una clave desde ahora.",
    "Name or id of the key.": "Nombre o identificador de la clave.",
    # ------------------------------------------------------------ areas that keep their own
    **adapters.HELP,
    **data.HELP,
    **evaluation.HELP,
    **jobfiles.HELP,
    **server.HELP,
    **sharing.HELP,
    **tune.HELP,
    **versions.HELP,
}
