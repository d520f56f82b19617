"""Versions of adapters: `versions`, `promote`, `rollback`."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "{model} now means {version}.": "{model} significa ahora {version}.",
    "{model} means {version} again; @{left} still answers by its number.": (
        "{model} vuelve a significar {version}; @{left} sigue respondiendo por su número."
    ),
    "RANK": "RANGO",
    "SOURCE": "ORIGEN",
    "DEPLOYED": "DESPLEGADO",
    "serving": "en servicio",
    "registered": "registrado",
    "deployed": "desplegado",
}
HELP: dict[str, str] = {
    "Let one version of an adapter serve under its bare name.": (
        "Hace que una versión responda por el nombre a secas."
    ),
    "Running requests end with the version that they began with.": (
        "Las peticiones en marcha acaban con la versión con la que empezaron."
    ),
    "The version, or its ft: name.": "La versión, o su nombre ft:.",
    "An adapter: BASE+ADAPTER or ADAPTER.": "Un adaptador: BASE+ADAPTADOR o ADAPTADOR.",
    "Let the version serve that was deployed before.": "Vuelve a la versión desplegada antes.",
    "List the versions of an adapter, and which one serves.": (
        "Las versiones de un adaptador, y cuál responde."
    ),
}
