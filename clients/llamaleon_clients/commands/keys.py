"""`llamaleon keys`: runs the server's own command, which works on the home directory and not over HTTP."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from llamaleon_clients.options import AsJson

KEYS_HELP = """
API keys of this machine's server.

With the first key, every request needs one.

\b
  llamaleon keys create laptop
  llamaleon keys create trainer --scope train
  llamaleon keys list
  llamaleon keys revoke laptop

Clients send it as api_key; this command takes it from $LLAMALEON_API_KEY or `llamaleon --api-key`.
"""
MODULE = "llamaleon_server.registry.keys_command"


class Scope(StrEnum):
    use = "use"
    train = "train"
    admin = "admin"


def register(app: typer.Typer) -> None:
    keys = typer.Typer(help=KEYS_HELP, no_args_is_help=True, rich_markup_mode=None)
    keys.command()(create)
    keys.command(name="list")(index)
    keys.command()(revoke)
    app.add_typer(keys, name="keys")


def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    *,
    scope: Annotated[
        Scope, typer.Option(help="use (chat), train (and fine-tune), admin (and change what is served).")
    ] = Scope.use,
    as_json: AsJson = False,
) -> None:
    """Make a key; it is shown this once."""
    from llamaleon_clients import console
    from llamaleon_clients.words import say

    made = _run("create", "--scope", str(scope), "--", name)
    if as_json:
        console.print_json(made)
        return
    console.out().print(made["key"], markup=False)
    shown = say("This is the key {name} (scope {scope}).", name=made["name"], scope=made["scope"])
    console.note(f"{shown} {say('It is not shown again: the server keeps a hash.')}")
    console.note(say("From now on every request needs a key: export LLAMALEON_API_KEY=... for this command."))


def index(as_json: AsJson = False) -> None:
    """Names, scopes and last use of all keys."""
    from llamaleon_clients import console
    from llamaleon_clients.words import say

    records = _run("list")
    if as_json:
        console.print_json(records)
        return
    if not records:
        console.out().print(say("No keys: everybody on this machine may do everything."))
        return
    made = console.table(say("NAME"), say("SCOPE"), say("ID"), say("CREATED"), say("LAST USED"))
    for one in records:
        used = say("never") if one["used"] is None else console.ago(one["used"])
        made.add_row(one["name"], one["scope"], one["id"], console.ago(one["created"]), used)
    console.print_table(made)


def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of the key.")], as_json: AsJson = False
) -> None:
    """Refuse a key from now on."""
    from llamaleon_clients import console
    from llamaleon_clients.words import say

    revoked = _run("revoke", "--", name)
    if as_json:
        console.print_json(revoked)
        return
    console.out().print(say("Revoked {name}.", name=revoked["name"]), markup=False)
    if not revoked["left"]:
        console.note(say("No keys are left: a server on this machine's loopback is open again."))


def _run(*arguments: str) -> Any:
    """What the server's command answers. Raises: CommandRefused."""
    import json
    import subprocess

    from llamaleon_clients.errors import CommandRefused

    command = [sys.executable, "-m", MODULE, "--json", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise CommandRefused.from_output(done.stderr)
    return json.loads(done.stdout)
