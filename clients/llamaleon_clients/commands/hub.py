"""`pull` and `search`: models from the Hugging Face hub and from Ollama registries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaleon_clients.options import AsJson, Url

if TYPE_CHECKING:
    from rich.console import Console

    from llamaleon_clients.api import Json

PULL_HELP = """
Fetch a model and serve it.

What breaks off goes on where it stopped, also another day.

\b
  llamaleon pull bartowski/Llama-3.2-1B-Instruct-GGUF
  llamaleon pull bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0
  llamaleon pull OWNER/REPO/FILE.gguf
  llamaleon pull llama3.2:1b

Without a quantisation, the one that fits this machine; NAME:TAG is Ollama's registry.
"""
SEARCH_HELP = """
Search the Hugging Face hub for GGUF models.

\b
  llamaleon search qwen3 4b
"""


def register(app: typer.Typer) -> None:
    app.command(help=PULL_HELP)(pull)
    app.command(help=SEARCH_HELP)(search)


def pull(
    name: Annotated[
        str, typer.Argument(help="OWNER/REPO[:QUANT], a link to a file, or NAME[:TAG] of Ollama.")
    ],
    *,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask there instead of the public hub or registry.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="For gated and private models. [default: HF_TOKEN of the server]", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.pulling import follow, pull_display
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client, pull_display(quiet=as_json) as display:
        done = follow(client.pull(name, token=token, mirror=mirror), display)
    if as_json:
        console.print_json(done)
        return
    model = done["model"]
    console.out().print(
        say("Pulled {model}. Chat with it: llamaleon chat {model}", model=model), markup=False
    )


def search(
    text: Annotated[list[str], typer.Argument(help="Words of the name.")],
    *,
    limit: Annotated[int, typer.Option(min=1, max=50, help="How many repositories.")] = 10,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        found = client.search(" ".join(text), limit)
    if as_json:
        console.print_json(found)
        return
    if not found:
        console.out().print(say("Nothing found."))
        return
    terminal = console.wide_console()
    if terminal.is_terminal:
        for repo in found:
            _print_repo(terminal, repo)
    else:
        made = console.table(say("REPOSITORY"), say("DOWNLOADS") + ">", say("QUANTISATIONS"))
        for repo in found:
            made.add_row(_name(repo), console.human_count(repo["downloads"]), _offered(repo["quants"]))
        console.print_table(made)
    console.note(
        say("* is what `llamaleon pull REPOSITORY` takes; (in brackets): too large for this machine.")
    )


def _print_repo(terminal: Console, repo: Json) -> None:
    """Its name on a line of its own, to be copied, and under it what it offers."""
    import textwrap

    from rich.text import Text

    from llamaleon_clients.console import human_count
    from llamaleon_clients.words import say

    downloads = say("{count} downloads", count=human_count(repo["downloads"]))
    terminal.print(Text(_name(repo), style="bold").append(f"  {downloads}", style="not bold dim"))
    # A quantisation and its size stay on one line: textwrap breaks at plain blanks alone.
    offered = ", ".join(one.replace(" ", "\u00a0") for one in _offered(repo["quants"]).split(", "))
    for line in textwrap.wrap(offered, terminal.width - 2, break_on_hyphens=False):
        terminal.print(Text("  " + line.replace("\u00a0", " ")))


def _name(repo: Json) -> str:
    from llamaleon_clients.words import say

    return str(repo["id"]) + (f" {say('(gated)')}" if repo["gated"] else "")


def _offered(quants: list[dict[str, Any]]) -> str:
    from llamaleon_clients.console import human_bytes

    shown = []
    for one in quants:
        text = f"{one['quant'] or one['name']} {human_bytes(one['bytes'])}"
        shown.append(f"({text})" if one["fits"] == "no" else f"{text}*" if one.get("best") else text)
    return ", ".join(shown) or "-"
