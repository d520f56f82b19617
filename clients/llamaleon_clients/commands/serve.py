"""`llamaleon serve` and `llamaleon stop`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

SERVE_HELP = """
Run the server in this terminal.

\b
  llamaleon serve
  llamaleon serve --model ~/models/qwen2.5-0.5b-q4_k_m.gguf --watch ./adapters
  llamaleon serve --host 0.0.0.0 --gpu-layers 0 --context 4096 --idle-unload 0
"""


def register(app: typer.Typer) -> None:
    app.command(help=SERVE_HELP)(serve)
    app.command()(stop)


def serve(
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 11711,
    home: Annotated[
        Path | None, typer.Option(help="Where names, files, jobs and adapters live. [$LLAMALEON_HOME]")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="PATH_OR_NAME", help="GGUF file to serve. Repeatable.")
    ] = None,
    watch: Annotated[
        list[Path] | None, typer.Option(help="Folder whose adapters are served as they appear. Repeatable.")
    ] = None,
    gpu_layers: Annotated[
        int | None, typer.Option(help="Layers on the GPU. [default: as many as fit]", show_default=False)
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens of one conversation. [default: the model's, at most 8192]", show_default=False
        ),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(help="Most requests generated at once, as memory allows. [default: 32]")
    ] = None,
    kv_tokens: Annotated[
        int | None,
        typer.Option(help="KV cache of all requests together. [default: what fits]", show_default=False),
    ] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Most tokens of one step. [default: 512]")] = None,
    step_target: Annotated[
        float | None,
        typer.Option(
            help="Seconds that long prompts may hold up running answers in one step. [default: 0.25]"
        ),
    ] = None,
    speculation: Annotated[
        bool | None,
        typer.Option(
            "--speculation/--no-speculation",
            help="Guess ahead what an answer repeats of its prompt, where that pays. [default: on]",
            show_default=False,
        ),
    ] = None,
    mixing: Annotated[
        bool | None,
        typer.Option(
            "--mixing/--no-mixing", help="Different adapters in one step. [default: on]", show_default=False
        ),
    ] = None,
    bank_ranks: Annotated[
        int | None, typer.Option(help="Sum of ranks that mixed adapters may have. [default: 256]")
    ] = None,
    adapter_ram: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="RAM for adapters; others wait on disk. [default: 4GiB]"),
    ] = None,
    prefix_ram: Annotated[
        str | None, typer.Option(metavar="SIZE", help="RAM for idle cached prefixes. [default: 1GiB]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: automatic]")] = None,
    flash_attention: Annotated[
        bool | None,
        typer.Option(
            "--flash-attention/--no-flash-attention", help="[default: automatic]", show_default=False
        ),
    ] = None,
    kv_type: Annotated[
        str | None, typer.Option(help="Type of the KV cache: f16, q8_0, q4_0, ... [default: f16]")
    ] = None,
    queue_limit: Annotated[
        int | None, typer.Option(help="Waiting requests before 429. [default: 256]")
    ] = None,
    idle_unload: Annotated[
        float | None, typer.Option(help="Seconds until an idle model leaves memory; 0: never. [default: 600]")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug (a line for every answer), info, warning. [default: info]")
    ] = None,
) -> None:
    arguments = ["--host", host, "--port", str(port)]
    single = {
        "--home": home,
        "--gpu-layers": gpu_layers,
        "--context": context,
        "--parallel": parallel,
        "--kv-tokens": kv_tokens,
        "--batch-tokens": batch_tokens,
        "--step-target": step_target,
        "--bank-ranks": bank_ranks,
        "--adapter-ram": adapter_ram,
        "--prefix-ram": prefix_ram,
        "--threads": threads,
        "--kv-type": kv_type,
        "--queue-limit": queue_limit,
        "--idle-unload": idle_unload,
        "--log-level": log_level,
    }
    for option, value in single.items():
        if value is not None:
            arguments += [option, str(value)]
    switches = {"flash-attention": flash_attention, "speculation": speculation, "mixing": mixing}
    for option, on in switches.items():
        if on is not None:
            arguments.append(f"--{option}" if on else f"--no-{option}")
    for name in model or ():
        arguments += ["--model", name]
    for folder in watch or ():
        arguments += ["--watch", str(folder)]
    replace_process("llamaleon_server", arguments)


def stop() -> None:
    """Stop the server that runs for $LLAMALEON_HOME."""
    from llamaleon_clients import local
    from llamaleon_clients.console import out

    running = local.find(local.home_dir())
    if running is None:
        out().print("No server is running.")
        return
    local.stop(running)
    out().print(f"Stopped the server at {running.url}.")


def replace_process(module: str, arguments: list[str]) -> None:
    """Become `python -m module`: signals and exit codes are then those of the real program."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
