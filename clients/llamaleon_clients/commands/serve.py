"""`llamaleon serve` and `llamaleon stop`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from llamaleon_clients.options import AsJson

SERVE_HELP = """
Run the server in this terminal.

\b
  llamaleon serve
  llamaleon serve --model ~/models/qwen2.5-0.5b-q4_k_m.gguf --watch ./adapters
  llamaleon serve --gpu-layers 0 --context 4096 --idle-unload 0
  llamaleon serve --host 0.0.0.0 --tls-cert c.pem --tls-key k.pem
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
    projector: Annotated[
        Path | None, typer.Option(help="mmproj file of the one --model. [default: one beside it that fits]")
    ] = None,
    discover: Annotated[
        bool,
        typer.Option(
            "--discover/--no-discover",
            help="Serve what Ollama, LM Studio and the Hugging Face hub have on this disk.",
        ),
    ] = True,
    watch: Annotated[
        list[Path] | None, typer.Option(help="Folder whose adapters are served as they appear. Repeatable.")
    ] = None,
    gpu_layers: Annotated[
        int | None, typer.Option(help="Layers on the GPU. [default: as many as fit]", show_default=False)
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens of one conversation. [default: what fits, at most 32768]", show_default=False
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of another package: `llamaleon.engines`.")
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
    kv_type_k: Annotated[str | None, typer.Option(help="Of its keys alone.")] = None,
    kv_type_v: Annotated[str | None, typer.Option(help="Of its values alone.")] = None,
    mmap: Annotated[
        bool | None, typer.Option("--mmap/--no-mmap", help="[default: on]", show_default=False)
    ] = None,
    rope_scaling: Annotated[
        str | None, typer.Option(help="none, linear, yarn, longrope. [default: as the GGUF says]")
    ] = None,
    rope_freq_base: Annotated[float | None, typer.Option(help="RoPE's base frequency.")] = None,
    rope_freq_scale: Annotated[
        float | None, typer.Option(help="Of RoPE's frequencies; 0.25: four times the context.")
    ] = None,
    yarn_ext_factor: Annotated[
        float | None, typer.Option(help="YaRN: how much is extrapolated, 0 to 1.")
    ] = None,
    yarn_attn_factor: Annotated[float | None, typer.Option(help="YaRN: factor of the attention.")] = None,
    yarn_beta_fast: Annotated[float | None, typer.Option(help="YaRN: low correction dimension.")] = None,
    yarn_beta_slow: Annotated[float | None, typer.Option(help="YaRN: high correction dimension.")] = None,
    yarn_orig_ctx: Annotated[int | None, typer.Option(help="YaRN: context that was trained.")] = None,
    split_mode: Annotated[
        str | None, typer.Option(help="Over several GPUs: none, layer, row, tensor. [default: layer]")
    ] = None,
    tensor_split: Annotated[
        str | None, typer.Option(metavar="SHARES", help="Share of each GPU: 3,1. [default: by free memory]")
    ] = None,
    main_gpu: Annotated[int | None, typer.Option(help="The GPU of --split-mode none, from 0.")] = None,
    queue_limit: Annotated[
        int | None, typer.Option(help="Waiting requests before 429. [default: 256]")
    ] = None,
    idle_unload: Annotated[
        float | None, typer.Option(help="Seconds until an idle model leaves memory; 0: never. [default: 600]")
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of all models together. [default: 4/5 of what is free]"),
    ] = None,
    max_models: Annotated[int | None, typer.Option(help="Most models in memory at once.")] = None,
    training_gpu: Annotated[
        str | None,
        typer.Option(
            help="share (train beside the models), yield (they leave for it), wait (until nobody is served). "
            "[default: share]"
        ),
    ] = None,
    webhook_url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Told how jobs, batches and background responses end. Repeatable."),
    ] = None,
    webhook_secret_file: Annotated[
        Path | None, typer.Option(help="What signs that. [default: webhook.secret in the home]")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="LLAMALEON_API_KEY", help="One key that may do everything, beside `llamaleon keys`."
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen to a network without any key.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name that this server is reached under. Repeatable."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Site whose pages may use the server; * for all. Repeatable."),
    ] = None,
    allow_dir: Annotated[
        list[Path] | None,
        typer.Option(help="Folder that other machines may load files from by path. Repeatable."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM): serve HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    max_body: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest JSON body. [default: 64MiB]")
    ] = None,
    max_upload: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest upload. [default: 512MiB]")
    ] = None,
    read_timeout: Annotated[
        float | None, typer.Option(help="Seconds for a request to arrive. [default: 30]")
    ] = None,
    request_timeout: Annotated[
        float | None, typer.Option(help="Seconds until an answer begins; 0: any. [default: 3600]")
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
        "--engine": engine,
        "--step-target": step_target,
        "--bank-ranks": bank_ranks,
        "--adapter-ram": adapter_ram,
        "--prefix-ram": prefix_ram,
        "--threads": threads,
        "--kv-type": kv_type,
        "--kv-type-k": kv_type_k,
        "--kv-type-v": kv_type_v,
        "--rope-scaling": rope_scaling,
        "--rope-freq-base": rope_freq_base,
        "--rope-freq-scale": rope_freq_scale,
        "--yarn-ext-factor": yarn_ext_factor,
        "--yarn-attn-factor": yarn_attn_factor,
        "--yarn-beta-fast": yarn_beta_fast,
        "--yarn-beta-slow": yarn_beta_slow,
        "--yarn-orig-ctx": yarn_orig_ctx,
        "--split-mode": split_mode,
        "--tensor-split": tensor_split,
        "--main-gpu": main_gpu,
        "--memory-budget": memory_budget,
        "--max-models": max_models,
        "--training-gpu": training_gpu,
        "--webhook-secret-file": webhook_secret_file,
        "--queue-limit": queue_limit,
        "--idle-unload": idle_unload,
        "--log-level": log_level,
        "--tls-cert": tls_cert,
        "--tls-key": tls_key,
        "--projector": projector,
        "--max-body": max_body,
        "--max-upload": max_upload,
        "--read-timeout": read_timeout,
        "--request-timeout": request_timeout,
    }
    for option, value in single.items():
        if value is not None:
            arguments += [option, str(value)]
    switches = {
        "mmap": mmap,
        "flash-attention": flash_attention,
        "speculation": speculation,
        "mixing": mixing,
    }
    for option, on in switches.items():
        if on is not None:
            arguments.append(f"--{option}" if on else f"--no-{option}")
    for name in model or ():
        arguments += ["--model", name]
    repeated: dict[str, Sequence[object] | None] = {
        "--watch": watch,
        "--allowed-host": allowed_host,
        "--cors-origin": cors_origin,
        "--allow-dir": allow_dir,
        "--webhook-url": webhook_url,
    }
    for option, values in repeated.items():
        for one in values or ():
            arguments += [option, str(one)]
    if not discover:
        arguments.append("--no-discover")
    if insecure:
        arguments.append("--insecure")
    if api_key is not None:
        os.environ["LLAMALEON_API_KEY"] = api_key  # not as an argument: `ps` shows those to everybody
    replace_process("llamaleon_server", arguments)


def stop(as_json: AsJson = False) -> None:
    """Stop the server that runs for $LLAMALEON_HOME."""
    from llamaleon_clients import local
    from llamaleon_clients.console import out, print_json
    from llamaleon_clients.words import say

    running = local.find(local.home_dir())
    if running is not None:
        _tell_of_jobs(running.url)
        local.stop(running)
    if as_json:
        print_json({"stopped": running is not None, "url": None if running is None else running.url})
    elif running is None:
        out().print(say("No server is running."))
    else:
        out().print(say("Stopped the server at {url}.", url=running.url), markup=False)


def _tell_of_jobs(url: str) -> None:
    """Training is a process of its own and goes on: whoever stops the server should know."""
    from llamaleon_clients.api import Client
    from llamaleon_clients.console import note
    from llamaleon_clients.errors import ClientError
    from llamaleon_clients.words import say

    try:
        with Client(url, timeout_s=2.0) as client:
            jobs = [str(job["id"]) for job in client.jobs() if job["status"] == "running"]
    except ClientError:  # a server that no longer answers, or wants a key, is stopped all the same
        return
    for job in jobs:
        note(say("Job {job} goes on training; the next server finishes it.", job=job))


def replace_process(module: str, arguments: list[str]) -> None:
    """Become `python -m module`: signals and exit codes are then those of the real program."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
