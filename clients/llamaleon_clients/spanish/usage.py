"""The words of the command-line library itself, in Spanish: headings, usage lines, wrong command lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import typer

from llamaleon_clients.spanish_help import TEXTS

HEADINGS = {
    "Options": "Opciones",
    "Arguments": "Argumentos",
    "Commands": "Órdenes",
    "Data": "Datos",
    "Training": "Entrenamiento",
    "Adapter": "Adaptador",
    "Memory and speed": "Memoria y velocidad",
    "Job": "Trabajo",
}
PLACES = {"[OPTIONS]": "[OPCIONES]", "COMMAND [ARGS]...": "ORDEN [ARGUMENTOS]..."}
EXTRAS = {"env var": "variable", "default": "por defecto", "required": "obligatorio"}
_BRACKETS = re.compile(r"\[[^\]]*\]$")
# Patterns of the whole message, tried in this order; what none fits stays as it is.
MISTAKES = (
    (r"Missing argument (.+?)\.", r"Falta el argumento \1."),
    (r"Missing option (.+?)\.", r"Falta la opción \1."),
    (r"Missing command\.", "Falta la orden."),
    (r"No such option: (\S+) \(Possible options: (.*)\)", r"No existe la opción \1 (¿quizá \2?)."),
    (r"No such option: (\S+)(?: Did you mean (\S+)\?)?", r"No existe la opción \1."),
    (r"No such command (.+?)\.(?: Did you mean (.+)\?)?", r"No existe la orden \1."),
    (r"Option (.+) requires an argument\.", r"La opción \1 necesita un valor."),
    (r"Option (.+) does not take a value\.", r"La opción \1 no lleva valor."),
    (r"Got unexpected extra argument\(s\) \((.*)\)", r"Sobran argumentos: \1"),
    (r"Got unexpected extra arguments? \((.*)\)", r"Sobran argumentos: \1"),
    (r"Invalid value for (.+?): (.*)", r"Valor no válido para \1: \2"),
    (r"Invalid value: (.*)", r"Valor no válido: \1"),
)


class Formatter(typer.Context.formatter_class):  # type: ignore[misc,valid-type]  # of typer's click
    """Lays help out as the library does, under Spanish headings."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        for english, spanish in PLACES.items():
            args = args.replace(english, spanish)
        super().write_usage(prog, args, prefix or "Uso: ")

    def write_heading(self, heading: str) -> None:
        super().write_heading(HEADINGS.get(heading, heading))

    def write_dl(self, rows: Sequence[tuple[str, str]], *arguments: Any, **more: Any) -> None:
        super().write_dl([(name, _option(text)) for name, text in rows], *arguments, **more)


def _option(text: str) -> str:
    """`Text.  [env var: X; required]`"""

    def inside(found: re.Match[str]) -> str:
        extras = found[0]
        for english, spanish in EXTRAS.items():
            extras = re.sub(rf"(?<=[\[ ]){english}(?=[:\];])", spanish, extras)
        return extras

    return _BRACKETS.sub(inside, TEXTS.get(text, text))


def mistake(message: str) -> str:
    """What is wrong with the command line."""
    for english, spanish in MISTAKES:
        found = re.fullmatch(english, message, flags=re.DOTALL)
        if found is not None:
            return found.expand(spanish)
    return message


def lay_out(command: Any) -> None:
    """Let this one command write its help with `Formatter`."""
    command.context_class = type("Context", (command.context_class,), {"formatter_class": Formatter})
