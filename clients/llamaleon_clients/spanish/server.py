"""The server of this machine, what can go wrong on the way to it, and files that are not there."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "Warning": "Aviso",
    "y/N": "s/N",
    "`{command} -h` shows how it is used.": "`{command} -h` muestra cómo se usa.",
    "no server answers at {url} ({reason}). Start one with `llamaleon serve`.": (
        "ningún servidor responde en {url} ({reason}). Arranque uno con `llamaleon serve`."
    ),
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
