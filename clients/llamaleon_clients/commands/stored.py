"""`llamaleon stored`: chat completions kept with `store: true`, and rows to train on made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamaleon_clients.options import AsJson, Url

STORED_HELP = """
Stored chat completions, as training data.

\b
  llamaleon stored list --metadata task=tickets
  llamaleon stored export --metadata rating=good
  llamaleon stored export --preferred rating=good --rejected rating=bad
  llamaleon stored rm chatcmpl-...

`export` makes a file on the server, whose id the fine-tuning API takes; --out writes it here, too.
"""

Pairs = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=VALUE", help="Only those with this pair; may be repeated."),
]
Model = Annotated[str | None, typer.Option(help="Only those asked of this model.")]


def register(app: typer.Typer) -> None:
    stored = typer.Typer(help=STORED_HELP, no_args_is_help=True, rich_markup_mode=None)
    stored.command(name="list")(index)
    stored.command()(export)
    stored.command()(rm)
    app.add_typer(stored, name="stored")


def index(
    *,
    metadata: Pairs = None,
    model: Model = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """The newest stored completions."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        entries = client.stored(model, _pairs(metadata, "--metadata"), limit)
    if as_json:
        console.print_json(entries)
        return
    if not entries:
        console.out().print(say("No stored completions: ask with `store: true`."))
        return
    made = console.table(say("COMPLETION"), say("MODEL"), say("METADATA"), say("ANSWER"), say("CREATED"))
    for entry in entries:
        pairs = " ".join(f"{key}={value}" for key, value in (entry.get("metadata") or {}).items())
        answer = " ".join((entry["choices"][0]["message"].get("content") or "").split())
        shown = answer if len(answer) <= 40 else f"{answer[:39]}…"
        made.add_row(entry["id"], entry["model"], pairs or "-", shown, console.ago(entry["created"]))
    console.print_table(made)


def export(
    *,
    metadata: Pairs = None,
    model: Model = None,
    preferred: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Pairs of the better answers, for rows of preferences."),
    ] = None,
    rejected: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Pairs of the worse answers.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the rows to this file, too.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Make a training file of stored completions."""
    from llamaleon_clients import console
    from llamaleon_clients.errors import ClientError
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    body = {
        "model": model,
        "metadata": _pairs(metadata, "--metadata"),
        "preferred": _pairs(preferred, "--preferred"),
        "rejected": _pairs(rejected, "--rejected"),
    }
    with connect(url) as client:
        made = client.export_stored({key: value for key, value in body.items() if value is not None})
        if out is not None:
            try:
                out.write_bytes(client.file_content(made["id"]))
            except OSError as error:
                raise ClientError(
                    say("{path} cannot be written: {reason}", path=out, reason=error.strerror)
                ) from error
    if as_json:
        console.print_json(made)
        return
    console.out().print(say("{rows} rows in {file}", rows=made["rows"], file=made["id"]), markup=False)
    for reason, count in made["left_out"].items():
        console.note(say("{count} left out: {reason}", count=count, reason=reason))
    console.note(made["warning"])


def rm(
    completions: Annotated[list[str], typer.Argument(help="Ids, as `stored list` shows them.")],
    *,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Forget stored completions."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        for name in completions:
            client.remove_stored(name)
    if as_json:
        console.print_json({"removed": completions})
        return
    for name in completions:
        console.out().print(say("Removed {name}.", name=name), markup=False)


def _pairs(given: list[str] | None, option: str) -> dict[str, str] | None:
    from llamaleon_clients.words import say

    if given is None:
        return None
    pairs = dict(entry.partition("=")[::2] for entry in given)
    if not all("=" in entry and not entry.startswith("=") for entry in given):
        raise typer.BadParameter(say("{option} takes KEY=VALUE.", option=option))
    return pairs
