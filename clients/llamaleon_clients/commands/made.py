"""`create` and `cp`: models made of Modelfiles, and other names for models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llamaleon_clients.options import AsJson, Url

CREATE_HELP = """
Make a model of a Modelfile.

It is a name for a base, adapters on it, and what goes with every chat.

\b
  llamaleon create mario -f Modelfile
  printf 'FROM nano\\nSYSTEM You are Mario.\\n' | llamaleon create mario -f -

\b
A Modelfile:
  FROM nano                      a model of any kind, or ./file.gguf
  ADAPTER ./poet.gguf            any number, with weights: ADAPTER sql*0.5
  PARAMETER temperature 0.7      num_ctx, top_p, stop, seed, ...
  SYSTEM You are Mario.
"""


def register(app: typer.Typer) -> None:
    app.command(help=CREATE_HELP)(create)
    app.command()(cp)


def create(
    name: Annotated[str, typer.Argument(help="Name to answer to.")],
    *,
    file: Annotated[Path, typer.Option("--file", "-f", help="The Modelfile; - reads standard input.")] = Path(
        "Modelfile"
    ),
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.errors import BadInput
    from llamaleon_clients.session import connect, existing
    from llamaleon_clients.words import say

    if str(file) == "-":
        text, folder = sys.stdin.read(), Path.cwd()
    else:
        try:
            text = existing(file, say("The Modelfile")).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(say("{file} cannot be read: {reason}", file=file, reason=error)) from error
        folder = file.resolve().parent
    with connect(url) as client:
        made = client.create_model(name, text, folder)
    if as_json:
        console.print_json(made)
        return
    for note in made["notes"]:
        console.note(note)
    console.out().print(say("Made {name}.", name=made["name"]), markup=False)


def cp(
    source: Annotated[str, typer.Argument(help="A model of any kind, as `ls` names it.")],
    destination: Annotated[str, typer.Argument(help="Its other name.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Let another name mean the same.

    An alias of a base or an adapter, a copy of a made model.
    """
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        made = client.copy_model(source, destination)
    if as_json:
        console.print_json(made)
        return
    console.out().print(say("Copied {source} to {name}.", source=source, name=made["name"]), markup=False)
