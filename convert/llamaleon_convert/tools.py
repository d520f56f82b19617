"""`python -m llamaleon_convert merge | combine | extract | unconvert`: what can be made of adapters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from llamaleon_convert import ConvertError, combine, extract, merge, to_peft

METHODS = ("linear", "slerp", "ties", "dare", "dare_ties")
MOST_NAMED = 8


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        done, summary = TOOLS[options.tool](options)
    except ConvertError as error:
        body = msgspec.json.encode({"error": {"message": str(error)}}).decode()
        print(body if options.json else f"error: {error}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(done).decode() if options.json else summary)
    return 0


def _merge(options: argparse.Namespace) -> tuple[Any, str]:
    done = merge(options.base, options.adapter, options.out, widen=options.widen)
    return done, f"{done.path}: {done.tensors} tensors merged, {len(done.widened)} of them to F32"


def _combine(options: argparse.Namespace) -> tuple[Any, str]:
    done = combine(
        options.base,
        options.adapter,
        options.out,
        method=options.method,
        rank=options.rank,
        density=options.density,
        seed=options.seed,
    )
    return done, f"{done.path}: rank {done.rank}, error {done.error:.2%}"


def _extract(options: argparse.Namespace) -> tuple[Any, str]:
    done = extract(
        options.before,
        options.after,
        options.out,
        served=options.served,
        rank=options.rank,
        tolerance=options.tolerance,
        seed=options.seed,
    )
    lines = [f"{done.path}: rank {done.rank}, error {done.error:.2%} of the change"]
    left = list(done.left_behind.items())
    lines += [f"left behind: {name} changed by {change:.2%}" for name, change in left[:MOST_NAMED]]
    lines += [f"left behind: {len(left) - MOST_NAMED} more, by less"] if len(left) > MOST_NAMED else []
    return done, "\n".join(lines)


def _to_peft(options: argparse.Namespace) -> tuple[Any, str]:
    modules = to_peft(options.lora, options.base, options.out, base_name=options.base_name, root=options.root)
    return {"path": str(options.out), "modules": modules}, f"{options.out}: {len(modules)} modules"


TOOLS: dict[str, Callable[[argparse.Namespace], tuple[Any, str]]] = {
    "merge": _merge,
    "combine": _combine,
    "extract": _extract,
    "unconvert": _to_peft,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llamaleon_convert")
    tools = parser.add_subparsers(dest="tool", required=True)
    one = _tool(tools, "merge", "Adapters into their base: a new model.")
    _adapters(one)
    one.add_argument("--widen", action="store_true", help="F32 for what is merged, to be quantised next")
    one = _tool(tools, "combine", "Adapters into one adapter.")
    _adapters(one)
    one.add_argument("--method", choices=METHODS, default="linear")
    one.add_argument("--rank", type=int, help="of the result (default: the sum of the ranks)")
    one.add_argument("--density", type=float, default=0.5, help="part that ties and dare keep (default: 0.5)")
    one.add_argument("--seed", type=int, default=0, help="of what dare drops (default: 0)")
    one = _tool(tools, "extract", "The change between two models as an adapter.")
    one.add_argument("before", type=Path, help="GGUF, or directory of safetensors")
    one.add_argument("after", type=Path, help="the same model after training, of the same kind")
    one.add_argument("--served", type=Path, help="GGUF that will serve the adapter (default: BEFORE)")
    one.add_argument("--rank", type=int, default=32)
    one.add_argument(
        "--tolerance", type=float, default=0.01, help="largest change that may be lost (default: 0.01)"
    )
    one.add_argument("--seed", type=int, default=0)
    one = _tool(tools, "unconvert", "A GGUF LoRA to a PEFT directory.")
    one.add_argument("lora", type=Path)
    one.add_argument("--base", type=Path, required=True, help="GGUF of its base")
    one.add_argument("--base-name", help="of the Hugging Face model, for adapter_config.json")
    one.add_argument("--root", help="module that holds the layers, where it is not the usual one")
    return parser


def _tool(tools: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = tools.add_parser(name, help=text, description=text)
    parser.add_argument("-o", "--out", type=Path, required=True, help="what to write")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _adapters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", type=Path, required=True, help="GGUF of the base")
    parser.add_argument(
        "--adapter",
        type=_weighted,
        action="append",
        required=True,
        metavar="PATH=WEIGHT",
        help="GGUF LoRA or PEFT directory; repeatable",
    )


def _weighted(text: str) -> tuple[Path, float]:
    """`PATH=0.7`; a path alone has weight 1."""
    path, separator, weight = text.rpartition("=")
    try:
        return (Path(path), float(weight)) if separator else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0
