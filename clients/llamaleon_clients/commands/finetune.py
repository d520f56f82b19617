"""`llamaleon finetune`: the flags of Microsoft Olive's command, as a job here."""

from __future__ import annotations

from typing import Annotated

import typer

from llamaleon_clients.options import AsJson, Url

FINETUNE_HELP = """
Train as `olive finetune` does, with its flags.

\b
  llamaleon finetune --method qlora -m nano -d rows.jsonl \\
      --text_template "Q: {question}\\n A: {answer}" --max_steps 100 \\
      --per_device_train_batch_size 8 --learning_rate 1e-4 -o qa

Olive's own flags and those of transformers' TrainingArguments. What cannot be honoured
is named, what is unknown is an error. The table is in docs/job-files.md.
"""


def register(app: typer.Typer) -> None:
    app.command(
        help=FINETUNE_HELP, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
    )(finetune)


def finetune(
    context: typer.Context,
    *,
    name: Annotated[str | None, typer.Option(help="Name of the new adapter. [default: that of -o]")] = None,
    base: Annotated[str | None, typer.Option(help="Model to adapt, instead of --model_name_or_path.")] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import jobfiles, training
    from llamaleon_clients.commands.watching import watch
    from llamaleon_clients.console import note
    from llamaleon_clients.jobfiles import olive
    from llamaleon_clients.session import connect

    given = olive.parse(context.args)
    if base is not None:
        given["model_name_or_path"] = base
    settings, warnings = olive.settings_of(given)
    for warning in warnings:
        note(warning)
    if name is not None:
        settings["name"] = name
    with connect(url) as client:
        request = training.request_of(jobfiles.settled(client, settings))
        watch(client, training.submit(client, request), as_json, settings["name"])
