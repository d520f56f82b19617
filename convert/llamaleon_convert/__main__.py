"""`python -m llamaleon_convert`: one adapter from PEFT to GGUF; `... merge` and others: see tools.py."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from llamaleon_convert import ConvertError, Manifest, convert, tools

EPILOG = """\
Needs the adapter and the base GGUF only: no torch, no Hugging Face copy of the base.
What GGUF cannot express (DoRA, modules_to_save, prompt tuning, ...) is refused with the reason and a remedy.
`merge`, `combine`, `extract` and `unconvert` as the first argument: other tools, each with its own --help.
Exit status: 0 written, 1 refused or unreadable (the reason is on standard error), 2 wrong arguments.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] and given[0] in tools.TOOLS:
        return tools.main(given)
    options = _parser().parse_args(given)
    out: Path = options.out or options.peft_dir / "adapter.gguf"
    try:
        manifest = convert(options.peft_dir, options.base, out, scale=options.scale)
    except ConvertError as error:
        if options.json:
            print(msgspec.json.encode({"error": {"message": str(error)}}).decode(), file=sys.stderr)
        else:
            print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(manifest)).decode())
    else:
        print(_summary(out, manifest))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llamaleon_convert",
        description="Convert a PEFT LoRA directory to a GGUF LoRA for llama.cpp.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "peft_dir", type=Path, help="directory with adapter_config.json, adapter_model.safetensors"
    )
    parser.add_argument("--base", type=Path, required=True, help="GGUF of the base model the adapter is for")
    parser.add_argument("-o", "--out", type=Path, help="file to write (default: PEFT_DIR/adapter.gguf)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the adapter's effect (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    return parser


def _summary(out: Path, manifest: Manifest) -> str:
    return (
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {manifest.architecture}, rank {manifest.rank}, "
        f"alpha {manifest.alpha:g}, {len(manifest.target_tensors)} tensors, sha256 {manifest.sha256[:12]}"
    )


if __name__ == "__main__":
    sys.exit(main())
