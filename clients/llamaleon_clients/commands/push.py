"""`llamaleon push`: an adapter to the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from llamaleon_clients.options import AsJson, Url

PUSH_HELP = """
Upload an adapter to the Hugging Face hub, with a model card.

\b
  llamaleon push nano+poet OWNER/poet --license mit
  llamaleon push nano+poet@3 OWNER/poet --private

PEFT's files, the GGUF and a README.md go in one commit; the card tells the base, how it was
trained and how it did on the rows that were held out. `llamaleon add NAME hf:OWNER/NAME` is
the way back.
"""


def register(app: typer.Typer) -> None:
    app.command(help=PUSH_HELP)(push)


def push(
    name: Annotated[str, typer.Argument(help="An adapter: BASE+ADAPTER, ADAPTER, or one version with @3.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository; made if there is none.")],
    *,
    private: Annotated[bool, typer.Option("--private", help="For a new one: not for everybody.")] = False,
    license_: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="For the card, e.g. mit or apache-2.0.")
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="The base on the hub. [default: as it was pulled]"),
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="[default: main]")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    token: Annotated[
        str | None,
        typer.Option(help="That may write there. [default: HF_TOKEN of the server]", show_default=False),
    ] = None,
    mirror: Annotated[str | None, typer.Option(metavar="URL", help="Another hub.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        pushed = client.push(
            model=name,
            repo=repo,
            private=private or None,
            license=license_,
            base_model=base_model,
            revision=revision,
            message=message,
            token=token,
            mirror=mirror,
        )
    if as_json:
        console.print_json(pushed)
        return
    console.out().print(say("Pushed {name}: {url}", name=pushed["id"], url=pushed["url"]), markup=False)
