"""Spanish help texts, by their English pieces (translated.py). A test finds those that are missing."""

from __future__ import annotations

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
        "Servidor al que hablar. Por defecto, el de $LLAMALEON_HOME; si no hay ninguno, se arranca."
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
    "the model's, at most 8192": "el del modelo, 8192 como mucho",
    "one beside it that fits": "uno que encaje y esté a su lado",
    "by free memory": "según la memoria libre",
    "4/5 of what is free": "4/5 de la libre",
    "adapter.gguf in PEFT_DIR": "adapter.gguf en PEFT_DIR",
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
        "DATA is .jsonl, .json or .csv; a row is OpenAI chat (messages), prompt/completion,\n"
        "instruction/input/output or text. Every row is checked before training starts. Rows are held out "
        "to\ncompare the adapter with its base; one that does worse is not deployed. What is not given "
        "follows from\nthe sizes of the data and of the model."
    ): (
        "DATA es .jsonl, .json o .csv; una fila es un chat de OpenAI (messages), prompt/completion,\n"
        "instruction/input/output o text. Todas se comprueban antes de entrenar. Algunas se apartan\n"
        "para comparar el adaptador con su base; el que lo hace peor no se despliega.\n"
        "Lo que no se indica se deduce del tamaño de los datos y del modelo."
    ),
    "File with the rows to learn from.": "Fichero con las filas de las que aprender.",
    "Model to adapt: a name, or the path of a GGUF file.": (
        "Modelo que adaptar: un nombre, o la ruta de un GGUF."
    ),
    "Name of the new adapter.": "Nombre del nuevo adaptador.",
    "File with the rows to hold out.": "Fichero con las filas que apartar.",
    "Part of DATA to hold out when there is no --valid.": "Parte de DATA que apartar si no hay --valid.",
    "Times through the data.": "Pasadas por los datos.",
    "Rows of one step.": "Filas de un paso.",
    "At its highest.": "En su punto más alto.",
    "Rank of the adapter.": "Rango del adaptador.",
    "LoRA alpha: its strength is alpha/rank.": "Alfa de LoRA: su fuerza es alfa/rango.",
    "Same seed, same split and order.": "Misma semilla, mismo reparto y mismo orden.",
    "Follow a job that runs, or show how it ended.": "Sigue un trabajo en marcha, o muestra cómo acabó.",
    "Cancel a job.": "Cancela un trabajo.",
    "List the newest training jobs.": "Los trabajos de entrenamiento más recientes.",
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
    # ------------------------------------------------------------ serve, stop
    "Run the server in this terminal.": "Arranca el servidor en este terminal.",
    "Address to listen on; 0.0.0.0 for other machines.": (
        "Dirección donde escuchar; 0.0.0.0 para otras máquinas."
    ),
    "Port to listen on; 0: any free one.": "Puerto donde escuchar; 0: uno libre.",
    "Where names, files, jobs and adapters live. [$LLAMALEON_HOME]": (
        "Donde viven nombres, ficheros, trabajos y adaptadores. [$LLAMALEON_HOME]"
    ),
    "GGUF file to serve. Repeatable.": "Fichero GGUF que servir. Repetible.",
    "mmproj file of the one --model.": "Fichero mmproj del único --model.",
    "Serve what Ollama, LM Studio and the Hugging Face hub have on this disk.": (
        "Sirve lo que Ollama, LM Studio y el hub de Hugging Face tengan en este disco."
    ),
    "Folder whose adapters are served as they appear. Repeatable.": (
        "Carpeta cuyos adaptadores se sirven según aparecen. Repetible."
    ),
    "Layers on the GPU.": "Capas en la GPU.",
    "Tokens of one conversation.": "Tokens de una conversación.",
    "Most requests generated at once, as memory allows.": (
        "Peticiones a la vez, como mucho y según la memoria."
    ),
    "KV cache of all requests together.": "Caché KV de todas las peticiones juntas.",
    "Most tokens of one step.": "Tokens de un paso, como mucho.",
    "Seconds that long prompts may hold up running answers in one step.": (
        "Segundos que una pregunta larga puede retener en un paso a las respuestas en marcha."
    ),
    "Guess ahead what an answer repeats of its prompt, where that pays.": (
        "Adelanta lo que una respuesta repite de su pregunta, donde compensa."
    ),
    "Different adapters in one step.": "Adaptadores distintos en un mismo paso.",
    "Sum of ranks that mixed adapters may have.": "Suma de rangos que pueden tener los adaptadores juntos.",
    "RAM for adapters; others wait on disk.": "RAM para adaptadores; los demás esperan en el disco.",
    "RAM for idle cached prefixes.": "RAM para prefijos guardados sin uso.",
    "CPU threads.": "Hilos de CPU.",
    "Type of the KV cache: f16, q8_0, q4_0, ...": "Tipo de la caché KV: f16, q8_0, q4_0, ...",
    "Of its keys alone.": "Solo de sus claves.",
    "Of its values alone.": "Solo de sus valores.",
    "none, linear, yarn, longrope.": "none, linear, yarn, longrope.",
    "RoPE's base frequency.": "Frecuencia base de RoPE.",
    "Of RoPE's frequencies; 0.25: four times the context.": (
        "De las frecuencias de RoPE; 0.25: cuatro veces el contexto."
    ),
    "YaRN: how much is extrapolated, 0 to 1.": "YaRN: cuánto se extrapola, de 0 a 1.",
    "YaRN: factor of the attention.": "YaRN: factor de la atención.",
    "YaRN: low correction dimension.": "YaRN: dimensión baja de corrección.",
    "YaRN: high correction dimension.": "YaRN: dimensión alta de corrección.",
    "YaRN: context that was trained.": "YaRN: contexto con el que se entrenó.",
    "Over several GPUs: none, layer, row, tensor.": "Entre varias GPU: none, layer, row, tensor.",
    "Share of each GPU: 3,1.": "Parte de cada GPU: 3,1.",
    "The GPU of --split-mode none, from 0.": "La GPU de --split-mode none, desde 0.",
    "Waiting requests before 429.": "Peticiones en espera antes de un 429.",
    "Seconds until an idle model leaves memory; 0: never.": (
        "Segundos hasta que un modelo sin uso deja la memoria; 0: nunca."
    ),
    "Memory of all models together.": "Memoria de todos los modelos juntos.",
    "Most models in memory at once.": "Modelos en memoria a la vez, como mucho.",
    "One key that may do everything, beside `llamaleon keys`.": (
        "Una clave que puede hacerlo todo, además de `llamaleon keys`."
    ),
    "Listen to a network without any key.": "Escucha a una red sin ninguna clave.",
    "Name that this server is reached under. Repeatable.": "Nombre con el que se llega aquí. Repetible.",
    "Site whose pages may use the server; * for all. Repeatable.": (
        "Sitio cuyas páginas pueden usar el servidor; * para todos. Repetible."
    ),
    "Folder that other machines may load files from by path. Repeatable.": (
        "Carpeta de la que otras máquinas pueden cargar ficheros por su ruta. Repetible."
    ),
    "Certificate (PEM): serve HTTPS.": "Certificado (PEM): sirve HTTPS.",
    "Its private key.": "Su clave privada.",
    "Largest JSON body.": "Mayor cuerpo JSON.",
    "Largest upload.": "Mayor subida.",
    "Seconds for a request to arrive.": "Segundos para que llegue una petición.",
    "Seconds until an answer begins; 0: any.": "Segundos hasta que empieza una respuesta; 0: los que sean.",
    "debug (a line for every answer), info, warning.": "debug (una línea por respuesta), info, warning.",
    "Stop the server that runs for $LLAMALEON_HOME.": "Detiene el servidor de $LLAMALEON_HOME.",
    "Of another package: `llamaleon.engines`.": "De otro paquete: `llamaleon.engines`.",
    # ------------------------------------------------------------ what is served
    "Serve an adapter or a model under a name.": "Sirve un adaptador o un modelo con un nombre.",
    "An adapter is a GGUF LoRA file or a PEFT directory; with --model, PATH is a whole GGUF model.": (
        "Un adaptador es un fichero LoRA GGUF o una carpeta PEFT; con --model, PATH es un modelo GGUF entero."
    ),
    "Name to answer to.": "Nombre por el que responde.",
    "GGUF LoRA file or PEFT directory.": "Fichero LoRA GGUF o carpeta PEFT.",
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
    "Which shell.": "Cuál.",
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
}
