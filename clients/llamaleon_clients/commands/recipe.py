"""`llamaleon recipe`: five uses, each with data that are written, an adapter and its figures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llamaleon_clients.options import AsJson, Url

RECIPE_HELP = """
Train one of five recipes: data, adapter, figures.

\b
The five:
  stoic      a worry -> an answer in the manner of Marcus Aurelius
  tickets    a message -> urgente, ventas, soporte técnico or spam
  extractor  a project report -> one JSON object
  code       a description -> a small Python function
  tone       an informal message -> a formal mail

\b
  llamaleon recipe tickets
  llamaleon recipe extractor --base qwen2.5-0.5b-instruct-q8_0

The rows are written to a folder, for you to look at, to change and to train again with `llamaleon train`.
"""
MODULE = "llamaleon_trainer.examples"
SHIPPED = "nano"
SEED = 1


class Name(StrEnum):
    stoic = "stoic"
    tickets = "tickets"
    extractor = "extractor"
    code = "code"
    tone = "tone"


@dataclass(frozen=True)
class Recipe:
    rows: int
    held_out: int
    shipped: dict[str, Any]  # hyperparameters for the model that ships; those of others are automatic


# nano was never taught to say some pieces of the answers ("today", signs of Python): only its output head can
# learn them, and it is not among the layers that are automatic. `code` got 60 % without it and 98 % with it.
_WITH_HEAD = [
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "lm_head",
]
_SHIPPED = {
    "n_epochs": 8,
    "batch_size": 4,
    "learning_rate": 2e-3,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_target_modules": _WITH_HEAD,
}
RECIPES = {
    Name.stoic: Recipe(1000, 200, _SHIPPED),
    Name.tickets: Recipe(600, 200, {**_SHIPPED, "n_epochs": 4}),
    Name.extractor: Recipe(
        6000,
        1000,
        {
            **_SHIPPED,
            "n_epochs": 1,  # every row is another report: more of them teach more than the same ones again
            "eval_every_steps": 750,
            "save_every_steps": 750,
        },
    ),
    Name.code: Recipe(1000, 200, _SHIPPED),
    Name.tone: Recipe(1000, 200, _SHIPPED),
}


def register(app: typer.Typer) -> None:
    app.command(help=RECIPE_HELP)(recipe)


def recipe(
    name: Annotated[Name, typer.Argument(help="Which of the five.")],
    *,
    base: Annotated[str, typer.Option(help="Model to adapt: a name, or the path of a GGUF file.")] = SHIPPED,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for the rows. [default: ./NAME]", show_default=False)
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=20, help="Rows to train on. [default: the recipe's]", show_default=False)
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(min=10, help="Rows to judge by. [default: the recipe's]", show_default=False)
    ] = None,
    write_only: Annotated[bool, typer.Option("--write-only", help="Write the rows and stop.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.commands.watching import watch
    from llamaleon_clients.session import connect
    from llamaleon_clients.training import request_of, submit
    from llamaleon_clients.words import say

    chosen = RECIPES[name]
    written = _write(name, folder or Path(name), rows or chosen.rows, held_out or chosen.held_out)
    if write_only:
        if as_json:
            console.print_json(written)
        else:
            for path in written.values():
                console.out().print(path, markup=False)
        return
    console.note(
        say("Rows: {train}, held out: {held_out}", train=written["train"], held_out=written["held_out"])
    )
    settings = {
        "data": written["train"],
        "valid": written["held_out"],
        "base": base,
        "name": str(name),
        "seed": SEED,
        **(chosen.shipped if base == SHIPPED else {}),
    }
    with connect(url) as client:
        watch(client, submit(client, request_of(settings)), as_json, str(name))


def _write(name: Name, folder: Path, rows: int, held_out: int) -> dict[str, str]:
    """The two files. Raises: CommandRefused."""
    import json
    import subprocess

    from llamaleon_clients.errors import CommandRefused

    counts = ("--rows", str(rows), "--held-out", str(held_out), "--seed", str(SEED))
    command = [sys.executable, "-m", MODULE, str(name), "--out", str(folder), *counts]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise CommandRefused.from_output(done.stderr)
    written: dict[str, str] = json.loads(done.stdout)
    return written
