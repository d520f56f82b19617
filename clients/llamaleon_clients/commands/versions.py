"""`versions`, `promote`, `rollback`: which version of an adapter its name means."""

from __future__ import annotations

from typing import Annotated

import typer

from llamaleon_clients.options import AsJson, Url

PROMOTE_HELP = """
Let one version of an adapter serve under its bare name.

\b
  llamaleon promote nano+poet@3
  llamaleon promote ft:nano:local:poet:5e77f079

Running requests end with the version that they began with.
"""
Name = Annotated[str, typer.Argument(metavar="NAME", help="An adapter: BASE+ADAPTER or ADAPTER.")]


def register(app: typer.Typer) -> None:
    app.command(help=PROMOTE_HELP)(promote)
    app.command()(rollback)
    app.command()(versions)


def promote(
    name: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version, or its ft: name.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        promoted = client.promote(name)
    if as_json:
        console.print_json(promoted)
        return
    bare = f"{promoted['base']}+{promoted['name']}"
    console.out().print(say("{model} now means {version}.", model=bare, version=promoted["id"]), markup=False)


def rollback(name: Name, as_json: AsJson = False, url: Url = None) -> None:
    """Let the version serve that was deployed before."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        back = client.rollback(name)
    if as_json:
        console.print_json(back)
        return
    bare = f"{back['base']}+{back['name']}"
    console.out().print(
        say(
            "{model} means {version} again; @{left} still answers by its number.",
            model=bare,
            version=back["id"],
            left=back["rolled_back_from"],
        ),
        markup=False,
    )


def versions(name: Name, as_json: AsJson = False, url: Url = None) -> None:
    """List the versions of an adapter, and which one serves."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        found = client.versions(name)
    if as_json:
        console.print_json(found)
        return
    deployed = {one["version"]: one["deployed"] for one in found["deployments"]}
    made = console.table(
        say("VERSION") + ">",
        say("STATE"),
        say("RANK") + ">",
        say("SOURCE"),
        say("ADDED"),
        say("DEPLOYED"),
        "",
    )
    for version in found["data"]:
        made.add_row(
            str(version["version"]),
            say("serving") if version["serving"] else _state(version["state"]),
            str(version["rank"]),
            str(version["source"] or "-"),
            console.ago(version["created"]),
            console.ago(deployed.get(version["version"])),
            version["reason"] or "",
        )
    console.print_table(made)


def _state(state: str) -> str:
    from llamaleon_clients.words import say

    known = {
        "registered": say("registered"),
        "deployed": say("deployed"),
        "failed": say("failed"),
    }
    return known.get(state, state)
