"""Adapters on the Hugging Face hub: `push`, and `add` from there."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "Pushed {name}: {url}": "Publicado {name}: {url}",
    "hf: names an adapter of the hub: --model and --projector do not go with it.": (
        "hf: nombra un adaptador del hub: --model y --projector no van con él."
    ),
}
HELP: dict[str, str] = {
    "Upload an adapter to the Hugging Face hub, with a model card.": (
        "Publica un adaptador en el hub de Hugging Face, con su ficha."
    ),
    (
        "PEFT's files, the GGUF and a README.md go in one commit; the card tells the base, how it was\n"
        "trained and how it did on the rows that were held out. `llamaleon add NAME hf:OWNER/NAME` is\n"
        "the way back."
    ): (
        "Los ficheros de PEFT, el GGUF y un README.md van en un solo commit; la ficha dice la base,\n"
        "cómo se entrenó y cómo le fue con las filas apartadas. `llamaleon add NOMBRE hf:DUEÑO/NOMBRE`\n"
        "es el camino de vuelta."
    ),
    "Repository; made if there is none.": "Repositorio; se crea si no existe.",
    "For a new one: not for everybody.": "Si es nuevo: no para todos.",
    "For the card, e.g. mit or apache-2.0.": "Para la ficha, p. ej. mit o apache-2.0.",
    "The base on the hub.": "La base en el hub.",
    "as it was pulled": "como se descargó",
    "Of the commit.": "Del commit.",
    "That may write there.": "Que pueda escribir allí.",
    "Another hub.": "Otro hub.",
}
