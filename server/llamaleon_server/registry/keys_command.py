"""`python -m llamaleon_server.registry.keys_command`: the keys of a home, with or without a running server.

It works on the database and not over HTTP: who can write the home directory may do everything there anyway,
the first key can be made before a server may listen to a network, and nobody can lock themselves out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from llamaleon_server.errors import LlamaleonError
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.keys import PREFIX, SCOPES, KeyStore
from llamaleon_server.settings import default_home


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="llamaleon keys", description="API keys of this machine's server.")
    made.add_argument("--home", type=Path, help="state directory; default $LLAMALEON_HOME or ~/.llamaleon")
    made.add_argument("--json", action="store_true", help="print JSON for scripts")
    commands = made.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key, shown this once")
    create.add_argument("name", help="what the key is for")
    create.add_argument("--scope", choices=SCOPES, default="use", help="each includes those before it")
    commands.add_parser("list", help="names, scopes and last use")
    revoke = commands.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("name", help="name or id")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    home = (arguments.home or default_home()).expanduser().absolute()
    command: Callable[[KeyStore, argparse.Namespace], None] = {
        "create": _create,
        "list": _list,
        "revoke": _revoke,
    }[arguments.command]
    try:
        with contextlib.closing(Database(home / "llamaleon.db")) as db:
            command(KeyStore(db), arguments)
    except (LlamaleonError, OSError) as error:
        if arguments.json:
            body = error.body() if isinstance(error, LlamaleonError) else {"error": {"message": str(error)}}
            print(json.dumps(body), file=sys.stderr)
        else:
            print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _create(keys: KeyStore, arguments: argparse.Namespace) -> None:
    record, key = keys.create(arguments.name, arguments.scope)
    if arguments.json:
        print(json.dumps({**msgspec.to_builtins(record), "key": key}))
        return
    print(f"{key}")
    print(
        f"This is the key {record.name!r} (scope {record.scope}). It is not shown again: the server keeps a "
        "hash.\nFrom now on every request needs a key: export LLAMALEON_API_KEY=... for this command.",
        file=sys.stderr,
    )


def _list(keys: KeyStore, arguments: argparse.Namespace) -> None:
    records = keys.all()
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(records)))
        return
    if not records:
        print("No keys: everybody on this machine may do everything.")
        return
    width = max(4, *(len(record.name) for record in records))
    print(f"{'NAME':{width}}  SCOPE  {'KEY':{len(PREFIX) + 11}}  {'CREATED':16}  LAST USED")
    for record in records:
        shown = f"{PREFIX}-{record.id}-…"
        used = "never" if record.used is None else _time(record.used)
        print(f"{record.name:{width}}  {record.scope:5}  {shown}  {_time(record.created)}  {used}")


def _revoke(keys: KeyStore, arguments: argparse.Namespace) -> None:
    record = keys.revoke(arguments.name)
    left = len(keys.all())
    if arguments.json:
        print(json.dumps({"id": record.id, "name": record.name, "revoked": True, "left": left}))
        return
    print(f"Revoked {record.name!r}.")
    if not left:
        print("No keys are left: a server on this machine's loopback is open again.", file=sys.stderr)


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


if __name__ == "__main__":
    sys.exit(main())
