"""The server of this machine, what can go wrong on the way to it, and files that are not there."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "Warning": "Aviso",
    "y/N": "s/N",
    "`{command} -h` shows how it is used.": "`{command} -h` muestra cómo se usa.",
    "no server answers at {url} ({reason}). Start one with `llamaleon serve`.": (
        "ningún servidor responde en {url} ({reason}). Arranque uno con `llamaleon serve`."
    ),
    "{url} is no server's address: write it as http://HOST:PORT.": (
        "{url} no es la dirección de un servidor: escríbala como http://MÁQUINA:PUERTO."
    ),
    "The API key has characters that no key has.": "La clave tiene caracteres que ninguna clave tiene.",
    "timed out": "se agotó el tiempo de espera",
    "{path} is not a Llamaleon answer; another program listens there": (
        "{path} no es una respuesta de Llamaleon; ahí escucha otro programa"
    ),
    "the answer is not Llamaleon's": "la respuesta no es de Llamaleon",
    "{message} (field: {param})": "{message} (campo: {param})",
    "the server answered {status}": "el servidor contestó {status}",
    "the server answered {status}: {body}": "el servidor contestó {status}: {body}",
    "Started a server at {url} (log: {log}; stop it with `llamaleon stop`).": (
        "Servidor arrancado en {url} (registro: {log}; se detiene con `llamaleon stop`)."
    ),
    "No server is running.": "No hay ningún servidor en marcha.",
    "Stopped the server at {url}.": "Servidor de {url} detenido.",
    "the server at {url} was not started from this home: stop it where it runs.": (
        "el servidor de {url} no se arrancó desde esta carpeta: deténgalo allí donde corre."
    ),
    "process {pid} is not a Llamaleon server; nothing was stopped.": (
        "el proceso {pid} no es un servidor de Llamaleon; no se ha detenido nada."
    ),
    "process {pid} belongs to another user; nothing was stopped.": (
        "el proceso {pid} es de otro usuario; no se ha detenido nada."
    ),
    "no free port on {host}": "no hay ningún puerto libre en {host}",
    "the server ended at once (exit code {code}).": (
        "el servidor terminó nada más arrancar (código de salida {code})."
    ),
    "the server did not answer at {url} within {seconds} s.": (
        "el servidor no respondió en {url} en {seconds} s."
    ),
    "See {log}.": "Vea {log}.",
    "The end of {log}:": "El final de {log}:",
    "{what} {path} does not exist.": "{what} {path} no existe.",
    "{what} {path} does not exist (looked in {folder}).": "{what} {path} no existe (se buscó en {folder}).",
    "{file} cannot be read: {reason}": "{file} no se puede leer: {reason}",
    "The file": "El fichero",
    "The model file": "El fichero del modelo",
    "The Modelfile": "El Modelfile",
    "The base model": "El modelo base",
    "The adapter directory": "La carpeta del adaptador",
    "The training file": "El fichero de entrenamiento",
    "The validation file": "El fichero de validación",
    # ------------------------------------------------------------ keys
    "This is the key {name} (scope {scope}).": "Esta es la clave {name} (permiso {scope}).",
    "It is not shown again: the server keeps a hash.": (
        "No se vuelve a mostrar: el servidor solo guarda su huella."
    ),
    "From now on every request needs a key: export LLAMALEON_API_KEY=... for this command.": (
        "Desde ahora toda petición necesita una clave: export LLAMALEON_API_KEY=... para esta orden."
    ),
    "No keys: everybody on this machine may do everything.": (
        "No hay claves: en esta máquina cualquiera puede hacerlo todo."
    ),
    "SCOPE": "PERMISO",
    "ID": "ID",
    "LAST USED": "ÚLTIMO USO",
    "never": "nunca",
    "Revoked {name}.": "{name} revocada.",
    "No keys are left: a server on this machine's loopback is open again.": (
        "No quedan claves: un servidor que escuche en el bucle local de esta máquina vuelve a estar abierto."
    ),
    # ------------------------------------------------------------ times
    "{days} days ago": "hace {days} días",
    "{time} ago": "hace {time}",
}
HELP: dict[str, str] = {
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
    "Listen to a network without any key.": "Escucha en la red sin ninguna clave.",
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
}
