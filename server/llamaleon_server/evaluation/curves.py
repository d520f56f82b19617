"""The losses of a training as a drawing: coordinates for the report's SVG, nothing that is text there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

WIDTH, HEIGHT = 720.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 16.0, 14.0, 34.0
TICKS = 5
STEEP = 0.98  # quantile of the training losses that the axis reaches: the first steps would squeeze the rest
MOST_POINTS = 400  # of a line; longer trainings are drawn as means of neighbouring steps

Points = Sequence[tuple[float, float]]  # (step, loss in nats per token)


class Tick(Struct, frozen=True):
    at: float
    label: str


class Dot(Struct, frozen=True):
    x: float
    y: float
    step: int
    loss: float
    best: bool


class Curves(Struct, frozen=True):
    """Everything in the units of a `WIDTH` by `HEIGHT` view box; lines as SVG's `points`."""

    training: str
    held_out: str
    dots: list[Dot]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def curves(training: Points, held_out: Points) -> Curves | None:
    """None if there is nothing to draw."""
    training = _thinned([point for point in training if math.isfinite(point[1])])
    held_out = [point for point in held_out if math.isfinite(point[1])]
    if not training and not held_out:
        return None
    losses = sorted(loss for _, loss in training)
    seen = [loss for _, loss in held_out] + losses[: max(1, math.ceil(STEEP * len(losses)))]
    last = max(step for step, _ in [*training, *held_out])
    y_ticks = nice_ticks(min(seen), max(seen))
    low, high = y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / max(last, 1), 1)

    def y(loss: float) -> float:
        share = (min(loss, high) - low) / (high - low)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)

    best = min(held_out, key=lambda point: point[1], default=None)
    return Curves(
        training=" ".join(f"{x(step)},{y(loss)}" for step, loss in training),
        held_out=" ".join(f"{x(step)},{y(loss)}" for step, loss in held_out),
        dots=[Dot(x(step), y(loss), int(step), loss, (step, loss) == best) for step, loss in held_out],
        x_ticks=[Tick(x(step), f"{step:g}") for step in nice_ticks(0, last) if step <= last],
        y_ticks=[Tick(y(loss), f"{loss:.{_decimals(y_ticks)}f}") for loss in y_ticks],
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose both, about `TICKS` of them.

    >>> nice_ticks(0.31, 2.2)
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    """
    if high <= low:
        high = low + 1.0
    raw = (high - low) / TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    count = math.ceil(high / step - 1e-9) - first
    return [round((first + at) * step, 10) for at in range(count + 1)]


def _decimals(ticks: Sequence[float]) -> int:
    return max(0, min(6, 1 - math.floor(math.log10(ticks[1] - ticks[0])))) if len(ticks) > 1 else 2


def _thinned(points: Points) -> list[tuple[float, float]]:
    size = math.ceil(len(points) / MOST_POINTS) or 1
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]
