"""`llamaleon train`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llamaleon_clients.commands.watching import say_status, watch
from llamaleon_clients.options import AsJson, Url
from llamaleon_clients.panels import Grouped

TRAIN_HELP = """
Train a LoRA adapter on DATA and serve it as BASE+NAME.

\b
  llamaleon train reports.jsonl --base nano --name extractor
  llamaleon train rows.csv --base ~/models/qwen.gguf --name tone --epochs 5
  llamaleon train pairs.jsonl --base nano+tone --name kind --method dpo
  llamaleon train config.yml
  llamaleon train --attach ftjob-...

DATA is .jsonl, .json, .csv or .parquet, hf:OWNER/NAME:SPLIT, or a job file (.yml: ours or
Axolotl's), which flags go over. Every row is checked before training starts. Rows are held out to
compare the adapter with its base; one that does worse is not deployed. What is not given follows
from the sizes of the data and of the model.
"""
DATA, TRAINING, ADAPTER, MEMORY, JOB = "Data", "Training", "Adapter", "Memory and speed", "Job"


class Method(StrEnum):
    supervised = "supervised"
    dpo = "dpo"


class Quantised(StrEnum):
    nf4 = "nf4"
    gguf = "gguf"


def register(app: typer.Typer) -> None:
    app.command(help=TRAIN_HELP, cls=Grouped)(train)


def train(
    *,
    data: Annotated[str | None, typer.Argument(help="Rows to learn from, or a job file.")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Model to adapt: a name or a GGUF file; an adapter is trained on.", rich_help_panel=DATA
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new adapter.", rich_help_panel=DATA)] = None,
    valid: Annotated[
        str | None, typer.Option(help="File with the rows to hold out.", rich_help_panel=DATA)
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Part of DATA to hold out when there is no --valid. [default: 0.1]", rich_help_panel=DATA
        ),
    ] = None,
    text_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Makes a text of each row: 'Q: {question}\\nA: {answer}'.",
            rich_help_panel=DATA,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Longest row. [default: 2048, or the model's context]", rich_help_panel=DATA),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(help="dpo: from pairs of a better and a worse answer.", rich_help_panel=TRAINING),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Times through the data.", rich_help_panel=TRAINING)
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Ends the job before its epochs do.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows of one step.", rich_help_panel=TRAINING)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its highest.", rich_help_panel=TRAINING)
    ] = None,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Measure a good one first.", rich_help_panel=TRAINING)
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="cosine, linear, constant. [default: cosine]", rich_help_panel=TRAINING)
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(help="Part of the steps in which it rises. [default: 0.05]", rich_help_panel=TRAINING),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="adamw, adamw_8bit, paged_adamw, paged_adamw_8bit. [default: adamw]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            help="Of dpo: how closely it stays to its beginning. [default: 0.1]", rich_help_panel=TRAINING
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="0 to 0.9. [default: 0]", rich_help_panel=TRAINING)
    ] = None,
    neftune: Annotated[
        float | None,
        typer.Option(
            metavar="ALPHA", help="Noise on the embeddings. [default: none]", rich_help_panel=TRAINING
        ),
    ] = None,
    early_stopping: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            help="End after so many held-out losses that were no better.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    load_best: Annotated[
        bool | None,
        typer.Option(
            "--best/--last",
            help="Which checkpoint is kept. [default: last]",
            rich_help_panel=TRAINING,
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same split and order.", rich_help_panel=TRAINING)
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank of the adapter. [default: 16]", rich_help_panel=ADAPTER)
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="LoRA alpha: its strength is alpha/rank.", rich_help_panel=ADAPTER),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Of its input, 0 to 0.9. [default: 0]", rich_help_panel=ADAPTER)
    ] = None,
    target_modules: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="all-linear, or q_proj,v_proj,... [default: what GGUF can express]",
            rich_help_panel=ADAPTER,
        ),
    ] = None,
    rslora: Annotated[
        bool | None,
        typer.Option(
            "--rslora/--no-rslora",
            help="Scale by the root of the rank. [default: off]",
            rich_help_panel=ADAPTER,
            show_default=False,
        ),
    ] = None,
    qlora: Annotated[
        Quantised | None,
        typer.Option(
            help="Quantised base: bitsandbytes' NF4, or the served GGUF's own blocks.", rich_help_panel=MEMORY
        ),
    ] = None,
    packing: Annotated[
        bool | None,
        typer.Option(
            "--packing/--no-packing",
            help="Several rows in one sequence. [default: off]",
            rich_help_panel=MEMORY,
            show_default=False,
        ),
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Rows of one pass. [default: what fits]", rich_help_panel=MEMORY)
    ] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Less memory, slower. [default: off]",
            rich_help_panel=MEMORY,
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16. [default: automatic]", rich_help_panel=MEMORY)
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Processes on this machine. [default: 1]", rich_help_panel=MEMORY)
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Write its files into the job's folder.", rich_help_panel=JOB),
    ] = False,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Report to Weights & Biases.", rich_help_panel=JOB)
    ] = None,
    no_deploy: Annotated[
        bool,
        typer.Option("--no-deploy", help="Only register it: NAME keeps its meaning.", rich_help_panel=JOB),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other setting of the API. Repeatable.",
            rich_help_panel=JOB,
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait for its end.", rich_help_panel=JOB)
    ] = False,
    attach: Annotated[
        str | None,
        typer.Option(
            metavar="JOB", help="Follow a job that runs, or show how it ended.", rich_help_panel=JOB
        ),
    ] = None,
    cancel: Annotated[
        str | None, typer.Option(metavar="JOB", help="Cancel a job.", rich_help_panel=JOB)
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients.session import connect

    if cancel is not None:
        with connect(url) as client:
            say_status(client.cancel_job(cancel), as_json)
        return
    if attach is not None:
        with connect(url) as client:
            watch(client, client.job(attach), as_json)
        return
    flags: dict[str, Any] = {
        "base": base,
        "name": name,
        "valid": valid,
        "method": method,
        "seed": seed,
        "text_template": None if text_template is None else text_template.replace("\\n", "\n"),
        "tensorboard": tensorboard or None,
        "wandb": wandb,
        "deploy": False if no_deploy else None,
        "held_out_fraction": held_out,
        "max_sequence_tokens": max_tokens,
        "n_epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "learning_rate": "find" if find_lr else learning_rate,
        "lr_scheduler": scheduler,
        "warmup_fraction": warmup,
        "optimizer": optimizer,
        "beta": beta,
        "label_smoothing": label_smoothing,
        "neftune_noise_alpha": neftune,
        "early_stopping_patience": early_stopping,
        "load_best": load_best,
        "lora_r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "lora_target_modules": _targets(target_modules),
        "use_rslora": rslora,
        "base_weights": qlora,
        "packing": packing,
        "micro_batch_size": micro_batch,
        "gradient_checkpointing": checkpointing,
        "precision": precision,
        "processes": processes,
        **_pairs(settings),
    }
    _run(url, data, {key: value for key, value in flags.items() if value is not None}, as_json, detach=detach)


def _run(url: str | None, data: str | None, flags: dict[str, Any], as_json: bool, *, detach: bool) -> None:
    """Hand the job in, and follow it. A job file is what the flags go over."""
    from contextlib import nullcontext

    from llamaleon_clients import jobfiles
    from llamaleon_clients.session import connect
    from llamaleon_clients.training import request_of, submit
    from llamaleon_clients.words import say

    from_file = data is not None and jobfiles.is_job_file(data)
    settings = jobfiles.read(Path(str(data))) | flags if from_file else {"data": data, **flags}
    if not (settings.get("data") and settings.get("base") and settings.get("name")):
        raise typer.BadParameter(say("DATA, --base and --name are needed (or --attach JOB)."))
    with connect(url) as client:
        with jobfiles.lines_of(Path(str(data))) if from_file else nullcontext():
            job = submit(client, request_of(jobfiles.settled(client, settings) if from_file else settings))
        if detach:
            say_status(job, as_json)
        else:
            watch(client, job, as_json, str(settings["name"]))


def _targets(names: str | None) -> str | list[str] | None:
    return names if names is None or names in ("auto", "all-linear") else names.split(",")


def _pairs(settings: list[str] | None) -> dict[str, Any]:
    """`KEY=VALUE`: the value as JSON (3, true, ["a"]), else as the text it is."""
    import json

    from llamaleon_clients.words import say

    found = {}
    for setting in settings or ():
        key, equals, text = setting.partition("=")
        if not (key and equals):
            raise typer.BadParameter(say("{option} takes KEY=VALUE.", option="--set"))
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found
