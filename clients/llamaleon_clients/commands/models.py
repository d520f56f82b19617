"""`add`, `ls`, `ps`, `pin`, `unpin`, `show`, `rm`: what is served."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaleon_clients.options import AsJson, Url

if TYPE_CHECKING:
    from llamaleon_clients.api import Client

ADD_HELP = """
Serve an adapter or a model under a name.

An adapter is a GGUF LoRA file or a PEFT directory; with --model, PATH is a whole GGUF model.

\b
  llamaleon add poet ./poet-lora.gguf
  llamaleon add poet ./peft-directory --base nano
  llamaleon add poet hf:OWNER/poet --base nano
  llamaleon add qwen ./qwen2.5-0.5b-q4_k_m.gguf --model
"""
RM_HELP = """
Forget a model or an adapter.

A base model's file stays where it is, and so does what a made model was made of; an adapter's copy is
deleted.

\b
  llamaleon rm nano+poet
  llamaleon rm mario
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
    path: Annotated[Path, typer.Argument(help="GGUF LoRA file, PEFT directory, or hf:OWNER/NAME.")],
    *,
    base: Annotated[
        str | None, typer.Option(help="Its base model, by name or GGUF path. [default: recognised]")
    ] = None,
    model: Annotated[
        bool, typer.Option("--model", help="PATH is a whole GGUF model, not an adapter.")
    ] = False,
    projector: Annotated[
        Path | None, typer.Option(help="mmproj file of the --model. [default: one beside it that fits]")
    ] = None,
    replace: Annotated[bool, typer.Option(help="Replace an adapter of that name.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.errors import BadInput, ServerRefused
    from llamaleon_clients.session import connect, existing, model_name
    from llamaleon_clients.words import say

    from_hub = str(path).startswith("hf:")
    if from_hub and (model or projector is not None):
        raise BadInput(say("hf: names an adapter of the hub: --model and --projector do not go with it."))
    if not from_hub:
        existing(path, say("The file"))
    if model and (base is not None or replace):
        raise BadInput(say("--model registers a whole model: --base and --replace belong to adapters."))
    if projector is not None and not model:
        raise BadInput(say("--projector belongs to a --model."))
    with connect(url) as client:
        if model:
            added = {"kind": "base", **client.add_base(path, name, projector)}
        elif from_hub:
            under = None if base is None else model_name(client, base)
            pulled = client.pull_adapter(repo=str(path), name=name, base=under, replace=replace or None)
            added = {"kind": "adapter", "name": f"{pulled['base']}+{name}"}
        else:
            under = None if base is None else model_name(client, base)
            try:
                client.add_adapter(name, path, base=under, replace=replace)
            except ServerRefused as error:
                if "load_inplace" not in error.message:
                    raise
                raise BadInput(
                    say("{name} is there already; --replace takes its place.", name=name)
                ) from error
            added = {"kind": "adapter", "name": _served_name(client, name, under)}
    if as_json:
        console.print_json(added)
        return
    console.out().print(say("Serving {name}.", name=added["name"]), markup=False)


def _served_name(client: Client, name: str, base: str | None) -> str:
    """`BASE+NAME`, where only the server knows which base the adapter fits; NAME if several have one."""
    if base is not None:
        return f"{base}+{name}"
    served = [entry["id"] for entry in client.models() if entry["id"] == f"{entry.get('parent')}+{name}"]
    return str(served[0]) if len(served) == 1 else name


def ls(as_json: AsJson = False, url: Url = None) -> None:
    """List the models and adapters that answer."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        entries = client.models()
    if as_json:
        console.print_json(entries)
        return
    titles = (say("NAME"), say("KIND"), say("VERSION") + ">", say("SIZE") + ">", say("ADDED"))
    made = console.table(*titles)
    for entry in entries:
        made.add_row(*_row(entry))
    console.print_table(made)


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    from llamaleon_clients.console import ago, human_bytes
    from llamaleon_clients.words import say

    parent = entry.get("parent")
    kind = say("base")
    if parent is not None:  # most adapters' names tell the base
        named = str(entry["id"]).startswith(f"{parent}+")
        kind = say("adapter") if named else say("adapter of {base}", base=parent)
    if entry.get("kind") == "made":
        kind = say("made of {base}", base=parent)
    if entry.get("missing"):
        kind += " " + say("(its file is gone: {path})", path=entry.get("root"))
    version = entry.get("version")
    return (
        str(entry["id"]),
        kind,
        "-" if version is None else str(version),
        human_bytes(entry.get("bytes")),
        ago(entry.get("created")),
    )


def ps(as_json: AsJson = False, url: Url = None) -> None:
    """Show the models in memory, and what they are doing."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect_if_running
    from llamaleon_clients.words import say

    client = connect_if_running(url)
    if client is None:
        if as_json:
            console.print_json({"object": "list", "data": []})
        else:
            console.out().print(say("No server is running."))
        return
    with client:
        answer = client.ps()
    if as_json:
        console.print_json(answer)
        return
    if not answer["data"]:
        console.out().print(say("No model is in memory: the first question loads one."))
        return
    from llamaleon_clients.residents import print_residents

    print_residents(answer["data"])


PinName = Annotated[
    str, typer.Argument(metavar="NAME", help="An adapter: BASE+ADAPTER, ADAPTER, or one version with @3.")
]


def pin(name: PinName, as_json: AsJson = False, url: Url = None) -> None:
    """Keep an adapter in memory, whatever else is asked for."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        pinned = client.pin(name)
    if as_json:
        console.print_json(pinned)
        return
    console.out().print(say("Pinned {name}.", name=pinned["id"]), markup=False)


def unpin(name: PinName, as_json: AsJson = False, url: Url = None) -> None:
    """Let an adapter leave memory again when others need the room."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        unpinned = client.unpin(name)
    if as_json:
        console.print_json(unpinned)
        return
    console.out().print(say("Unpinned {name}.", name=name), markup=False)


def show(
    name: Annotated[str, typer.Argument(help="A model or an adapter, as `ls` names it.")],
    modelfile: Annotated[
        bool, typer.Option("--modelfile", help="Print the Modelfile that makes it again.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show what is known about a model or an adapter."""
    from llamaleon_clients import console
    from llamaleon_clients.session import connect

    with connect(url) as client:
        if modelfile:
            text = client.modelfile(name)
            if as_json:
                console.print_json({"name": name, "modelfile": text})
            else:
                sys.stdout.write(text)
            return
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
        key: value
        for key, value in details.items()
        if key not in ("fingerprint", "versions", "manifest", "modelfile")
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
    from llamaleon_clients.words import say

    if key in {"created", "modified"}:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if isinstance(value, bool):
        return say("yes") if value else say("no")
    if isinstance(value, float):
        return f"{value:.4g}"
    return human_bytes(value) if key == "bytes" or key.endswith("_bytes") else str(value)


def rm(
    name: Annotated[str, typer.Argument(help="A model or an adapter, as `ls` names it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.asking import confirmed
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    with connect(url) as client:
        kind = _kind(client.models(), name)
        if not yes and kind == "adapter" and sys.stdin.isatty():
            question = say("Delete the adapter {name} and its training result?", name=name)
            if not confirmed(question):
                raise typer.Exit(1)
        remove = {"base": client.remove_base, "made": client.remove_model}
        remove.get(kind, client.remove_adapter)(name)
    if as_json:
        console.print_json({"name": name, "kind": kind, "deleted": True})
        return
    console.out().print(say("Removed {name}.", name=name), markup=False)


def _kind(entries: list[dict[str, Any]], name: str) -> str:
    """base, made or adapter; what is not listed may be a version of an adapter."""
    for entry in entries:
        if entry["id"] in {name, name.removesuffix(":latest")}:
            return str(entry.get("kind") or ("base" if entry.get("parent") is None else "adapter"))
    return "adapter"
