"""`add`, `ls`, `ps`, `pin`, `unpin`, `show`, `rm`: what is served."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from llamaleon_clients.options import AsJson, Url

ADD_HELP = """
Serve a file under a name: an adapter (GGUF LoRA or PEFT directory), or with --model a whole GGUF model.

\b
  llamaleon add poet ./poet-lora.gguf
  llamaleon add poet ./peft-directory --base nano
  llamaleon add qwen ./qwen2.5-0.5b-q4_k_m.gguf --model
"""
RM_HELP = """
Forget a model or an adapter. A base model's file stays where it is; an adapter's copy is deleted.

\b
  llamaleon rm nano+poet
"""


def register(app: typer.Typer) -> None:
    app.command(help=ADD_HELP)(add)
    app.command()(ls)
    app.command()(ps)
    app.command()(pin)
    app.command()(unpin)
    app.command()(show)
    app.command(help=RM_HELP)(rm)


def add(
    name: Annotated[str, typer.Argument(help="Name to answer to.")],
    path: Annotated[Path, typer.Argument(help="GGUF LoRA file or PEFT directory.")],
    *,
    base: Annotated[
        str | None, typer.Option(help="Its base model, by name or GGUF path. [default: recognised]")
    ] = None,
    model: Annotated[
        bool, typer.Option("--model", help="PATH is a whole GGUF model, not an adapter.")
    ] = False,
    replace: Annotated[bool, typer.Option(help="Replace an adapter of that name.")] = False,
    url: Url = None,
) -> None:
    from llamaleon_clients.console import out
    from llamaleon_clients.errors import BadInput
    from llamaleon_clients.session import connect, existing, model_name

    existing(path, "The file")
    if model and (base is not None or replace):
        raise BadInput("--model registers a whole model: --base and --replace belong to adapters.")
    with connect(url) as client:
        if model:
            registered = client.add_base(path, name)
            out().print(f"Serving {registered['name']}.")
            return
        answer = client.add_adapter(
            name, path, base=None if base is None else model_name(client, base), replace=replace
        )
        out().print(answer.strip(), markup=False)


def ls(as_json: AsJson = False, url: Url = None) -> None:
    """List the models and adapters that answer."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect

    with connect(url) as client:
        entries = client.models()
    if as_json:
        console.print_json(entries)
        return
    made = console.table("NAME", "KIND", "VERSION>", "SIZE>", "ADDED")
    for entry in entries:
        made.add_row(*_row(entry))
    console.print_table(made)


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    from llamaleon_clients.console import ago, human_bytes

    kind = "base" if entry.get("parent") is None else f"adapter of {entry['parent']}"
    if entry.get("missing"):
        kind += f" (its file is gone: {entry.get('root')})"
    version = entry.get("version")
    return (
        str(entry["id"]),
        kind,
        "-" if version is None else str(version),
        human_bytes(entry.get("bytes")),
        ago(entry.get("created")),
    )


def ps(as_json: AsJson = False, url: Url = None) -> None:
    """Show the base models in memory, what they are doing, and which adapters are ready in them."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect_if_running

    client = connect_if_running(url)
    if client is None:
        if as_json:
            console.print_json({"object": "list", "data": []})
        else:
            console.out().print("No server is running.")
        return
    with client:
        answer = client.ps()
    if as_json:
        console.print_json(answer)
        return
    from llamaleon_clients.residents import print_residents

    print_residents(answer["data"])


PinName = Annotated[
    str, typer.Argument(metavar="NAME", help="An adapter: BASE+ADAPTER, ADAPTER, or one version with @3.")
]


def pin(name: PinName, url: Url = None) -> None:
    """Keep an adapter ready in its model's adapter bank, whatever else is asked for."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect

    with connect(url) as client:
        console.out().print(f"Pinned {client.pin(name)['id']}.", markup=False)


def unpin(name: PinName, url: Url = None) -> None:
    """Let an adapter leave the bank again when others are asked for more."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect

    with connect(url) as client:
        client.unpin(name)
        console.out().print(f"Unpinned {name}.", markup=False)


def show(
    name: Annotated[str, typer.Argument(help="A model or an adapter, as `ls` names it.")],
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show everything known about a model or an adapter: versions, training, evaluation."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect

    with connect(url) as client:
        details = client.show(name)
    if as_json:
        console.print_json(details)
        return
    lines = _flat(_in_short(details))
    width = max(len(key) for key, _ in lines)
    for key, value in lines:
        sys.stdout.write(f"{key.ljust(width)}  {value}\n")


def _in_short(details: dict[str, Any]) -> dict[str, Any]:
    """Without what only programs compare (fingerprints) and what the versions say again; `--json` has all."""
    short = {
        key: value for key, value in details.items() if key not in ("fingerprint", "versions", "manifest")
    }
    manifest = dict(details.get("manifest") or {})
    manifest.pop("base", None)
    if "target_tensors" in manifest:
        manifest["target_tensors"] = len(manifest["target_tensors"])
    for version in details.get("versions") or ():
        facts = [version.get(key) for key in ("state", "reason", "fine_tuned_model", "path")]
        facts.insert(1, "pinned" if version.get("pinned") else None)
        short[f"version {version['version']}"] = "  ".join(str(fact) for fact in facts if fact)
    return {**short, **manifest}


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested details as `training.n_epochs  3` lines; lists of plain values on one line."""
    if isinstance(value, dict):
        return [
            line
            for key, inner in value.items()
            for line in _flat(inner, f"{prefix}.{key}" if prefix else key)
        ]
    if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        return [line for i, inner in enumerate(value) for line in _flat(inner, f"{prefix}[{i}]")]
    if isinstance(value, list):
        return [(prefix, ", ".join(map(str, value)) or "-")]
    if value is None:
        return []
    return [(prefix, _readable(prefix.rsplit(".", 1)[-1], value))]


def _readable(key: str, value: Any) -> str:
    from llamaleon_clients.console import human_bytes

    if key == "created":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return human_bytes(value) if key == "bytes" else str(value)


def rm(
    name: Annotated[str, typer.Argument(help="A model or an adapter, as `ls` names it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.session import connect

    with connect(url) as client:
        is_base = any(entry["id"] == name and entry.get("parent") is None for entry in client.models())
        if not yes and not is_base and sys.stdin.isatty():
            typer.confirm(f"Delete the adapter {name} and its training result?", abort=True)
        if is_base:
            client.remove_base(name)
        else:
            client.remove_adapter(name)
    console.out().print(f"Removed {name}.", markup=False)
