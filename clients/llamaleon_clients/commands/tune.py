"""`llamaleon tune`: learning rate, rank and batch size, searched by Optuna."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamaleon_clients.options import AsJson, Url

if TYPE_CHECKING:
    import optuna

TUNE_HELP = """
Search learning rate, rank and batch size; the best one serves.

\b
  llamaleon tune rows.jsonl --base nano --name informes --trials 10
  llamaleon tune job.yml --learning-rate 1e-5:1e-3 --rank 8,16

Every trial is a training job with the same rows held out; one that falls behind is cancelled. The search
goes on where it stopped when the command is given again. DATA may be a job file, for all other settings.
"""


def register(app: typer.Typer) -> None:
    app.command(help=TUNE_HELP)(tune)


def tune(
    data: Annotated[str, typer.Argument(help="File with the rows to learn from, or a job file.")],
    *,
    base: Annotated[
        str | None, typer.Option(help="Model to adapt: a name or a GGUF file; an adapter is trained on.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new adapter.")] = None,
    trials: Annotated[int, typer.Option(min=1, max=1000, help="How many jobs in all.")] = 10,
    learning_rate: Annotated[
        str, typer.Option(metavar="LOW:HIGH", help="Tried between these.")
    ] = "1e-5:1e-3",
    rank: Annotated[str, typer.Option(metavar="R,R,...", help="Ranks to try.")] = "4,8,16,32",
    batch_size: Annotated[str, typer.Option(metavar="N,N,...", help="Batch sizes to try.")] = "2,4,8,16",
    valid: Annotated[str | None, typer.Option(help="File with the rows to hold out.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Times through the data.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Steps of a trial, at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same split and order.")] = None,
    study: Annotated[
        Path | None, typer.Option(help="SQLite file of the search. [default: in $LLAMALEON_HOME]")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    from llamaleon_clients import console, jobfiles, local
    from llamaleon_clients.search.space import space_of
    from llamaleon_clients.search.study import deploy_best, opened, search
    from llamaleon_clients.session import connect
    from llamaleon_clients.words import say

    settings: dict[str, Any] = jobfiles.read(Path(data)) if jobfiles.is_job_file(data) else {"data": data}
    flags: dict[str, Any] = {"base": base, "name": name, "valid": valid, "n_epochs": epochs}
    flags |= {"max_steps": max_steps, "seed": seed}
    settings |= {key: value for key, value in flags.items() if value is not None}
    if not settings.get("base") or not settings.get("name"):
        raise typer.BadParameter(say("--base and --name are needed."))
    space = space_of(learning_rate, rank, batch_size)
    path = study or local.home_dir() / "tune" / f"{settings['name']}.db"
    with connect(url) as client:
        settings = jobfiles.settled(client, settings)
        known = opened(path, f"{settings['base']}+{settings['name']}", space, settings.pop("seed", None))
        try:
            search(client, known, space, settings, count=trials, said=console.note)
        except KeyboardInterrupt:
            console.note(say("The job goes on; the same command goes on with the search."))
            raise typer.Exit(130) from None
        _print_trials(known, as_json)
        best = deploy_best(client, known)
    if as_json:
        console.print_json(_summary(known, best))
        return
    model = f"{settings['base']}+{settings['name']}"
    console.out().print(
        say(
            "Trial {number} is the best: {model} is {version} now. The others were removed.",
            number=best.number,
            model=model,
            version=known.user_attrs["winner"],
        ),
        markup=False,
    )


def _print_trials(study: optuna.Study, as_json: bool) -> None:
    from llamaleon_clients import console
    from llamaleon_clients.words import say

    if as_json:
        return
    titles = (say("TRIAL") + ">", say("LEARNING RATE") + ">", say("RANK") + ">", say("BATCH") + ">")
    made = console.table(*titles, say("HELD-OUT LOSS") + ">", say("STATUS"), say("JOB"))
    for trial in study.get_trials(deepcopy=False):
        chosen: dict[str, Any] = trial.user_attrs.get("settings", {})
        last = trial.value
        if last is None and trial.intermediate_values:
            last = trial.intermediate_values[max(trial.intermediate_values)]
        made.add_row(
            str(trial.number),
            *(
                f"{chosen[key]:g}" if key in chosen else "-"
                for key in ("learning_rate", "lora_r", "batch_size")
            ),
            "-" if last is None else f"{last:.4f}",
            _state(trial),
            str(trial.user_attrs.get("job", "-")),
        )
    console.print_table(made)


def _state(trial: optuna.trial.FrozenTrial) -> str:
    from llamaleon_clients.words import say

    names = {"COMPLETE": say("complete"), "PRUNED": say("pruned"), "FAIL": say("failed")}
    state = names.get(trial.state.name, trial.state.name.lower())
    reason = trial.user_attrs.get("reason")
    return state if reason is None or trial.state.name == "PRUNED" else f"{state}: {reason}"


def _summary(study: optuna.Study, best: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return {
        "model": study.user_attrs["winner"],
        "best": best.number,
        "trials": [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "loss": trial.value,
                "settings": trial.user_attrs.get("settings"),
                "job": trial.user_attrs.get("job"),
            }
            for trial in study.get_trials(deepcopy=False)
        ],
    }
