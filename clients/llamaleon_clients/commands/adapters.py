"""`export`, `combine`, `extract`, `unconvert`: what can be made of adapters. Other programs do the work."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaleon_clients.options import AsJson, Url

if TYPE_CHECKING:
    from llamaleon_clients.adapter_files import Finder

EXPORT_HELP = """
Write a model with its adapters merged in.

\b
  llamaleon export nano+poet -o poet.gguf
  llamaleon export 'nano+poet*0.7+brief*0.3' -o both.gguf --type q4_k_m

A type is one of llama-quantize's; same (the default) is that of every tensor of the base.
"""
COMBINE_HELP = """
Make one adapter of several of the same base.

\b
  llamaleon combine 'poet*0.7' 'brief*0.3' --base nano --name both
  llamaleon combine a.gguf b.gguf --base nano --method ties -o c.gguf

Methods: linear, slerp (two adapters, weights that add up to 1), ties, dare, dare_ties. Without --rank,
linear and slerp are exact. What a lower rank loses is printed.
"""
EXTRACT_HELP = """
Make an adapter of the difference of two models.

\b
  llamaleon extract --base nano --tuned ./tuned.gguf --rank 32 --name tuned
  llamaleon extract --base nano --original ./a --tuned ./b -o lora.gguf

So a full fine-tune can be served as an adapter. What the rank loses is printed, and what no adapter can
carry (norms, biases, tied embeddings) is named.
"""
UNCONVERT_HELP = """
Write an adapter as a PEFT directory, for transformers.

\b
  llamaleon unconvert nano+poet -o ./poet
  llamaleon unconvert poet.gguf --base nano.gguf -o ./poet
"""
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")]
Name = Annotated[str | None, typer.Option(help="Serve it under this name.")]


def register(app: typer.Typer) -> None:
    app.command(help=EXPORT_HELP)(export)
    app.command(help=COMBINE_HELP)(combine)
    app.command(help=EXTRACT_HELP)(extract)
    app.command(help=UNCONVERT_HELP)(unconvert)


def export(
    model: Annotated[str, typer.Argument(metavar="BASE+ADAPTER*WEIGHT", help="A model, as it is asked for.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    kind: Annotated[str, typer.Option("--type", help="same, f16, q8_0, q4_k_m, ...")] = "same",
    imatrix: Annotated[Path | None, typer.Option(help="Importance matrix of llama.cpp's, in GGUF.")] = None,
    name: Name = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.adapter_files import QUANTISER, Finder, merged, run
    from llamaleon_clients.session import existing
    from llamaleon_clients.words import say

    with (
        Finder(url) as finder,
        tempfile.TemporaryDirectory(dir=_folder(output), prefix=".export-") as scratch,
    ):
        base, adapters = finder.blend(model)
        source, same = base, kind.lower() == "same"
        if adapters:
            source = Path(scratch) / "merged.gguf"
            result = merged(base, adapters, source, widen=not same)
        if same and adapters and not result["widened"]:
            source.replace(output)
        else:
            weighed = [] if imatrix is None else ["--imatrix", existing(imatrix, say("The file")).absolute()]
            like = ["--like", base.absolute()]
            run(QUANTISER, source.absolute(), output.absolute(), kind, *like, *weighed)
        if name is not None:
            finder.client.add_base(output, name)
    size = output.stat().st_size
    if as_json:
        console.print_json({"path": str(output), "bytes": size, "type": kind.lower(), "name": name})
        return
    console.out().print(
        say("Wrote {path} ({size}).", path=output, size=console.human_bytes(size)), markup=False
    )


def combine(
    adapters: Annotated[
        list[str], typer.Argument(metavar="ADAPTER*WEIGHT...", help="Names, GGUF LoRAs or PEFT directories.")
    ],
    *,
    base: Annotated[
        str | None, typer.Option(help="Their base: a name or a GGUF file. [default: recognised]")
    ] = None,
    method: Annotated[str, typer.Option(help="linear, slerp, ties, dare or dare_ties.")] = "linear",
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of the result. [default: the sum of theirs]")
    ] = None,
    density: Annotated[float, typer.Option(help="Part of the entries that ties and dare keep.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of what dare drops.")] = 0,
    output: Output = None,
    name: Name = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients.adapter_files import CONVERTER, Finder, run
    from llamaleon_clients.errors import BadInput
    from llamaleon_clients.words import say

    _check_where(output, name)
    with Finder(url) as finder:
        found = [finder.adapter(text, base) for text in adapters]
        known = sorted({one.base for one in found if one.base is not None})
        if base is None and len(known) != 1:
            raise BadInput(say("Which base they are for is not known: give --base."))
        model = base or known[0]
        given = [part for one in found for part in ("--adapter", one.argument())]
        settings = ["--method", method, "--density", density, "--seed", seed]
        settings += [] if rank is None else ["--rank", rank]
        with tempfile.TemporaryDirectory() as scratch:
            path = output or Path(scratch) / f"{name}.gguf"
            gguf = finder.base(model).absolute()
            done = run(
                CONVERTER, "combine", "--base", gguf, *given, *settings, "-o", path.absolute(), "--json"
            )
            served = _served(finder, name, path, model)
    _tell(done, output, served, as_json=as_json)


def extract(
    *,
    base: Annotated[str, typer.Option(help="The model that will serve it: a name or a GGUF file.")],
    tuned: Annotated[Path, typer.Option(help="The fine-tuned model: GGUF, or directory of safetensors.")],
    original: Annotated[
        Path | None, typer.Option(help="The model before training, of the same kind. [default: the base]")
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = 32,
    tolerance: Annotated[
        float, typer.Option(help="Largest change of a norm, bias or embedding that may be lost.")
    ] = 0.01,
    output: Output = None,
    name: Name = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients.adapter_files import CONVERTER, Finder, run
    from llamaleon_clients.session import existing
    from llamaleon_clients.words import say

    _check_where(output, name)
    after = existing(tuned, say("The model file")).absolute()
    with Finder(url) as finder, tempfile.TemporaryDirectory() as scratch:
        served_by = finder.base(base).absolute()
        before = served_by if original is None else existing(original, say("The model file")).absolute()
        path = output or Path(scratch) / f"{name}.gguf"
        settings = ["--served", served_by, "--rank", rank, "--tolerance", tolerance]
        done = run(CONVERTER, "extract", before, after, *settings, "-o", path.absolute(), "--json")
        served = _served(finder, name, path, base)
    _tell(done, output, served, as_json=as_json)


def unconvert(
    adapter: Annotated[str, typer.Argument(help="A name, or a GGUF LoRA.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")],
    base: Annotated[
        str | None, typer.Option(help="Its base: a name or a GGUF file. [default: recognised]")
    ] = None,
    base_name: Annotated[
        str | None, typer.Option(help="The Hugging Face model, for adapter_config.json.")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.adapter_files import CONVERTER, Finder, run
    from llamaleon_clients.errors import BadInput
    from llamaleon_clients.words import say

    with Finder(url) as finder:
        found = finder.adapter(adapter, base)
        model = base or found.base
        if model is None:
            raise BadInput(say("Which base they are for is not known: give --base."))
        named = [] if base_name is None else ["--base-name", base_name]
        gguf = finder.base(model).absolute()
        path = output.absolute()
        done = run(
            CONVERTER, "unconvert", found.path.absolute(), "--base", gguf, *named, "-o", path, "--json"
        )
    if as_json:
        console.print_json(done)
        return
    count = len(done["modules"])
    console.out().print(say("Wrote {path}: {count} modules.", path=output, count=count), markup=False)


def _folder(path: Path) -> Path:
    from llamaleon_clients.session import existing
    from llamaleon_clients.words import say

    return existing(path.absolute().parent, say("The folder"))


def _check_where(output: Path | None, name: str | None) -> None:
    from llamaleon_clients.errors import BadInput
    from llamaleon_clients.words import say

    if output is None and name is None:
        raise BadInput(say("Where to: give --output, --name or both."))


def _served(finder: Finder, name: str | None, path: Path, base: str) -> str | None:
    """The name under which the new adapter answers, if one was asked for."""
    from llamaleon_clients.session import model_name

    if name is None:
        return None
    under = model_name(finder.client, base)
    finder.client.add_adapter(name, path, base=under, replace=True)
    return f"{under}+{name}"


def _tell(done: dict[str, Any], output: Path | None, served: str | None, *, as_json: bool) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.words import say

    left = done.get("left_behind", {})
    if as_json:
        console.print_json({**done, "path": None if output is None else str(output), "name": served})
        return
    error = f"{done['error']:.2%}"
    console.out().print(
        say("Rank {rank}; lost of the change: {error}.", rank=done["rank"], error=error), markup=False
    )
    if left:
        worst, change = next(iter(left.items()))
        console.out().print(
            say(
                "Left behind: {count} weights that no adapter can carry, most of all {name} ({change}).",
                count=len(left),
                name=worst,
                change=f"{change:.2%}",
            ),
            markup=False,
        )
    if output is not None:
        size = console.human_bytes(output.stat().st_size)
        console.out().print(say("Wrote {path} ({size}).", path=output, size=size), markup=False)
    if served is not None:
        console.out().print(say("It answers as {name}.", name=served), markup=False)
