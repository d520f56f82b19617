"""What a search varies: learning rate (log-uniform), rank and batch size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llamaleon_clients.errors import BadInput
from llamaleon_clients.words import say

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Space:
    """Bounds of the learning rate; values of rank and batch size that are tried."""

    lowest: float
    highest: float
    ranks: tuple[int, ...]
    batch_sizes: tuple[int, ...]

    def suggested(self, trial: optuna.Trial) -> dict[str, Any]:
        """Hyperparameters by the API's names; what has one value only is no dimension."""
        rate = self.lowest
        if self.lowest < self.highest:
            rate = trial.suggest_float("learning_rate", self.lowest, self.highest, log=True)
        return {
            "learning_rate": float(f"{rate:.4g}"),
            "lora_r": _one_of(trial, "lora_r", self.ranks),
            "batch_size": _one_of(trial, "batch_size", self.batch_sizes),
        }

    def recorded(self) -> dict[str, Any]:
        """As a study keeps it, to notice that it was begun with another one."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def space_of(learning_rate: str, rank: str, batch_size: str) -> Space:
    """
    Raises:
        BadInput: not `LOW:HIGH`, or not whole numbers with commas; the option is named.
    """
    low, _, high = learning_rate.partition(":")
    try:
        lowest, highest = float(low), float(high or low)
    except ValueError:
        lowest, highest = 0.0, 0.0
    if not 0 < lowest <= highest <= 1:
        raise BadInput(
            say("--learning-rate is LOW:HIGH, above 0 and up to 1, not {value}.", value=learning_rate)
        )
    return Space(lowest, highest, _numbers("--rank", rank), _numbers("--batch-size", batch_size))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise BadInput(
            say("{option} is whole numbers from 1 with commas, not {value}.", option=option, value=text)
        )
    return found


def _one_of(trial: optuna.Trial, name: str, values: tuple[int, ...]) -> int:
    return values[0] if len(values) == 1 else int(trial.suggest_categorical(name, values))
