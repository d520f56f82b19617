"""The study: TPE proposes, a median pruner ends what is worse than half of the others, SQLite remembers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaleon_clients.api import Client
from llamaleon_clients.datasets import hand_in
from llamaleon_clients.errors import BadInput, ClientError, ServerRefused
from llamaleon_clients.search import trials
from llamaleon_clients.search.space import Space
from llamaleon_clients.words import say

if TYPE_CHECKING:
    import optuna

SPACE, SEED, WINNER = "space", "seed", "winner"  # attributes of a study
STARTUP_TRIALS = 3  # before anything is pruned, or proposed by more than chance
WARMUP_LOSSES = 1  # the first held-out loss of a job prunes nothing
MAX_SEED = 2**31 - 1
NOT_FOUND = 404


class NothingFound(ClientError):
    """No trial gave an adapter that may be served."""


def opened(path: Path, name: str, space: Space, seed: int | None) -> optuna.Study:
    """The study `name` in `path`, new or as it was left.

    Raises:
        BadInput: Optuna is not installed; or the study was begun with another space or seed.
    """
    try:
        import optuna
    except ImportError as error:
        raise BadInput(
            say("a search needs Optuna: pip install 'llamaleon[search]' (here: {reason}).", reason=error)
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{path}",
        study_name=name,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=WARMUP_LOSSES),
    )
    known = study.user_attrs
    if SPACE not in known:
        study.set_user_attr(SPACE, space.recorded())
        study.set_user_attr(SEED, secrets.randbelow(MAX_SEED) if seed is None else seed)
    elif known[SPACE] != space.recorded() or seed not in {None, known[SEED]}:
        raise BadInput(
            say(
                "{path} has a search that was begun with other ranges or another seed: give those again, or "
                "another --study.",
                path=path,
            )
        )
    # Differs with every trial that is known, or a search that goes on would propose the same again.
    proposals = study.user_attrs[SEED] + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=proposals, n_startup_trials=STARTUP_TRIALS)
    return study


def search(
    client: Client,
    study: optuna.Study,
    space: Space,
    settings: Mapping[str, Any],
    *,
    count: int,
    said: Callable[[str], None],
) -> None:
    """Go on until the study has `count` trials that ended. Each has the same data, split and seed."""
    import optuna

    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    for left in running:  # of a search that was killed: its job went on without it
        trial = optuna.trial.Trial(study, left._trial_id)
        job = left.user_attrs.get(trials.JOB)
        outcome = trials.Outcome("failed", None)
        if job is not None and _is_there(client, job):
            outcome = trials.watch(client, trial, job, said)
        _tell(study, trial, outcome)
    handed: dict[str, Any] = {}
    while sum(trials.JOB in trial.user_attrs for trial in study.get_trials(deepcopy=False)) < count:
        handed = handed or _handed_in(client, settings)
        trial = study.ask()
        chosen = space.suggested(trial)
        said(say("trial {number}: {settings}", number=trial.number, settings=_shown(chosen)))
        trial.set_user_attr("settings", chosen)
        asked = {**handed, **chosen, "seed": study.user_attrs[SEED]}
        _tell(study, trial, trials.run(client, trial, asked, said))


def _handed_in(client: Client, settings: Mapping[str, Any]) -> dict[str, Any]:
    """With the rows as files of the server: they are sent once, whatever the number of trials."""
    rows = {key: hand_in(client, settings[key])["id"] for key in ("data", "valid") if settings.get(key)}
    return {**settings, **rows}


def _is_there(client: Client, job: str) -> bool:
    """Not where the job is gone with the home that had it."""
    try:
        client.job(job)
    except ServerRefused as error:
        if error.status != NOT_FOUND:
            raise
        return False
    return True


def _tell(study: optuna.Study, trial: optuna.Trial, outcome: trials.Outcome) -> None:
    from optuna.trial import TrialState

    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    value = outcome.loss if outcome.state == "complete" else None
    study.tell(trial.number, value, state=states[outcome.state])


def deploy_best(client: Client, study: optuna.Study) -> optuna.trial.FrozenTrial:
    """Promote the adapter of the lowest held-out loss, and remove those of the other trials.

    Raises:
        NothingFound: no trial ended with an adapter that may be served.
    """
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    servable = [one for one in done if one.user_attrs.get(trials.DEPLOYABLE) and one.value is not None]
    if not servable:
        raise NothingFound(say("no trial made an adapter that may be served; nothing was deployed."))
    best = min(servable, key=lambda one: one.value or 0.0)
    model = trials.fine_tuned_model(client, best.user_attrs[trials.JOB])
    if model is None:
        raise NothingFound(say("the adapter of the best trial is gone; nothing was deployed."))
    promoted = client.promote(model)
    study.set_user_attr(WINNER, promoted["id"])
    jobs = [trial.user_attrs.get(trials.JOB) for trial in study.get_trials(deepcopy=False)]
    losers = [str(job) for job in jobs if job not in {None, best.user_attrs[trials.JOB]}]
    for version in client.versions(f"{promoted['base']}+{promoted['name']}")["data"]:
        if any(_made_by(version.get("ft_name"), job) for job in losers):
            with suppress(ServerRefused):  # it failed: nothing of it is served
                client.remove_adapter(version["id"])
    return best


def _made_by(ft_name: str | None, job: str) -> bool:
    """`ft:BASE:ORG:SUFFIX:ID`, and a checkpoint's with more behind it; ID is the end of the job's."""
    return ft_name is not None and f":{job[-8:]}:" in f"{ft_name}:"


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in settings.items())
