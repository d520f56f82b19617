"""From a model's id on the Hugging Face hub, as other trainers name it, to the name that serves it here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from llamaleon_clients.api import Client
from llamaleon_clients.console import note
from llamaleon_clients.errors import BadInput
from llamaleon_clients.words import say

# `Llama-3.2-1B-Instruct-GGUF:Q4_K_M`, `llama-3.2-1b-instruct-q8_0`: what is not the model's own name.
_QUANT = re.compile(r"[-._:]*(?:i1[-_.])?(?:(?:iq|q|tq)\d\w*|mxfp4\w*|bf16|f16|f32|fp16|fp32)$")


def served_base(client: Client, wanted: str) -> str:
    """The name of the served model that `wanted` means: a name, an alias, the id or folder of its original.

    Raises:
        BadInput: none is served, or several are; the message names them.
    """
    if wanted.lower().endswith(".gguf") or "+" in wanted or wanted.startswith("ft:"):
        return wanted  # a file, or an adapter: the server says whether it is one
    entries = client.models()
    names = [str(entry["id"]) for entry in entries]
    if wanted in names or f"{wanted}:latest" in names:
        return wanted
    bases = [str(entry["id"]) for entry in entries if entry.get("parent") is None]
    found = same_model(wanted, bases)
    if len(found) == 1:
        note(say("{wanted} is served here as {name}.", wanted=wanted, name=found[0]))
        return found[0]
    if found:
        raise BadInput(
            say(
                "{wanted} is served here as several models: {names}. Say which with --base.",
                wanted=wanted,
                names=", ".join(found),
            )
        )
    raise BadInput(
        say(
            "No model here is {wanted}; there are: {names}. Find a GGUF of it with `llamaleon search "
            "{short}` and fetch it with `llamaleon pull`, or name another with --base.",
            wanted=wanted,
            names=", ".join(bases) or "-",
            short=Path(wanted).name,
        )
    )


def same_model(wanted: str, names: Iterable[str]) -> list[str]:
    """Those that are a file of the model `wanted`, whoever quantised it.

    >>> same_model("Qwen/Qwen2.5-0.5B", ["qwen2.5-0.5b-instruct-q8_0", "bartowski/Qwen2.5-0.5B-GGUF:Q4_K_M"])
    ['bartowski/Qwen2.5-0.5B-GGUF:Q4_K_M']
    """
    return [name for name in names if _plain(name) == _plain(wanted)]


def _plain(name: str) -> str:
    last = name.lower().rstrip("/").rpartition("/")[2]
    before = ""
    while last != before:
        before = last
        last = _QUANT.sub("", last).removesuffix("gguf").rstrip("-._:")
    return last
