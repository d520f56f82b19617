"""Export, combine, extract, unconvert."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "{name} is not a base model.": "{name} no es un modelo base.",
    "{name} is not an adapter.": "{name} no es un adaptador.",
    "The file of {name} is not on this machine: {path}": (
        "El fichero de {name} no está en esta máquina: {path}"
    ),
    "{module} ended by signal {number}: {reason}": "{module} terminó por la señal {number}: {reason}",
    "Which base they are for is not known: give --base.": "No se sabe de qué base son: indique --base.",
    "Where to: give --output, --name or both.": "Falta el destino: indique --output, --name o ambos.",
    "The folder": "La carpeta",
    "Wrote {path} ({size}).": "Escrito {path} ({size}).",
    "Wrote {path}: {count} modules.": "Escrito {path}: {count} módulos.",
    "Rank {rank}; lost of the change: {error}.": "Rango {rank}; se pierde del cambio: {error}.",
    "Left behind: {count} weights that no adapter can carry, most of all {name} ({change}).": (
        "Se quedan fuera {count} pesos que ningún adaptador puede llevar, sobre todo {name} ({change})."
    ),
    "It answers as {name}.": "Responde como {name}.",
}

HELP: dict[str, str] = {
    "Write a model with its adapters merged in.": ("Escribe un modelo con sus adaptadores dentro."),
    "A type is one of llama-quantize's; same (the default) is that of every tensor of the base.": (
        "El tipo es uno de llama-quantize; same (por defecto) es el de cada tensor de la base."
    ),
    "A model, as it is asked for.": "Un modelo, tal como se pide.",
    "same, f16, q8_0, q4_k_m, ...": "same, f16, q8_0, q4_k_m, ...",
    "Importance matrix of llama.cpp's, in GGUF.": "Matriz de importancia de llama.cpp, en GGUF.",
    "Serve it under this name.": "Lo sirve con este nombre.",
    "Make one adapter of several of the same base.": "Hace un adaptador de varios de la misma base.",
    (
        "Methods: linear, slerp (two adapters, weights that add up to 1), ties, dare, dare_ties. Without "
        "--rank,\nlinear and slerp are exact. What a lower rank loses is printed."
    ): (
        "Métodos: linear, slerp (dos adaptadores, pesos que suman 1), ties, dare, dare_ties. Sin --rank,\n"
        "linear y slerp son exactos. Lo que pierde un rango menor se escribe."
    ),
    "Names, GGUF LoRAs or PEFT directories.": "Nombres, LoRA GGUF o carpetas PEFT.",
    "Their base: a name or a GGUF file.": "Su base: un nombre o un fichero GGUF.",
    "Its base: a name or a GGUF file.": "Su base: un nombre o un fichero GGUF.",
    "linear, slerp, ties, dare or dare_ties.": "linear, slerp, ties, dare o dare_ties.",
    "Of the result.": "Del resultado.",
    "the sum of theirs": "la suma de los suyos",
    "Part of the entries that ties and dare keep.": "Parte de los valores que ties y dare conservan.",
    "Of what dare drops.": "De lo que dare descarta.",
    "Make an adapter of the difference of two models.": (
        "Hace un adaptador de la diferencia de dos modelos."
    ),
    (
        "So a full fine-tune can be served as an adapter. What the rank loses is printed, and what no "
        "adapter can\ncarry (norms, biases, tied embeddings) is named."
    ): (
        "Así un ajuste completo se sirve como adaptador. Se escribe lo que pierde el rango y se nombra lo "
        "que\nningún adaptador puede llevar (normas, sesgos, embeddings atados)."
    ),
    "The model that will serve it: a name or a GGUF file.": (
        "El modelo que lo servirá: un nombre o un fichero GGUF."
    ),
    "The fine-tuned model: GGUF, or directory of safetensors.": (
        "El modelo ajustado: un GGUF o una carpeta de safetensors."
    ),
    "The model before training, of the same kind.": "El modelo antes de ajustarlo, de la misma clase.",
    "the base": "la base",
    "Largest change of a norm, bias or embedding that may be lost.": (
        "El mayor cambio de una norma, un sesgo o un embedding que se puede perder."
    ),
    "Write an adapter as a PEFT directory, for transformers.": (
        "Escribe un adaptador como carpeta PEFT, para transformers."
    ),
    "A name, or a GGUF LoRA.": "Un nombre, o un LoRA GGUF.",
    "Directory to write.": "Carpeta que escribir.",
    "The Hugging Face model, for adapter_config.json.": (
        "El modelo de Hugging Face, para adapter_config.json."
    ),
}
