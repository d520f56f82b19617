"""What is served, made, fetched and removed."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "--model registers a whole model: --base and --replace belong to adapters.": (
        "--model registra un modelo entero: --base y --replace son de los adaptadores."
    ),
    "--projector belongs to a --model.": "--projector acompaña a --model.",
    "{name} is there already; --replace takes its place.": "{name} ya existe; --replace lo sustituye.",
    "Serving {name}.": "{name} ya se sirve.",
    "NAME": "NOMBRE",
    "KIND": "CLASE",
    "VERSION": "VERSIÓN",
    "SIZE": "TAMAÑO",
    "ADDED": "AÑADIDO",
    "adapter of {base}": "adaptador de {base}",
    "made of {base}": "hecho de {base}",
    "(its file is gone: {path})": "(falta su fichero: {path})",
    "yes": "sí",
    "no": "no",
    "Pinned {name}.": "{name} queda fijado.",
    "Unpinned {name}.": "{name} ya no está fijado.",
    "Removed {name}.": "{name} eliminado.",
    "Delete the adapter {name} and its training result?": (
        "¿Borrar el adaptador {name} y el resultado de su entrenamiento?"
    ),
    "Made {name}.": "{name} creado.",
    "Copied {source} to {name}.": "{source} copiado como {name}.",
    # ------------------------------------------------------------ pull, search
    "Pulled {model}. Chat with it: llamaleon chat {model}": (
        "{model} descargado. Converse con él: llamaleon chat {model}"
    ),
    "looking for the model": "buscando el modelo",
    "the server stopped in the middle; what came is kept: pull it again.": (
        "el servidor se paró a medias; lo que llegó se conserva: vuelva a descargarlo."
    ),
    "{part} of {whole}": "{part} de {whole}",
    "Nothing found.": "No se ha encontrado nada.",
    "REPOSITORY": "REPOSITORIO",
    "DOWNLOADS": "DESCARGAS",
    "QUANTISATIONS": "CUANTIZACIONES",
    "{count} downloads": "{count} descargas",
    "(gated)": "(restringido)",
    "* is what `llamaleon pull REPOSITORY` takes; (in brackets): too large for this machine.": (
        "* es lo que toma `llamaleon pull REPOSITORIO`; (entre paréntesis): demasiado grande para esta "
        "máquina."
    ),
}
