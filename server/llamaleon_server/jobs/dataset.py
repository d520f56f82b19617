"""A job's rows before they are tokenised: read, checked against the method, and compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.registry.files import StoredFile
from llamaleon_trainer.rows import DataRow, Dataset, Problem, read_dataset

if TYPE_CHECKING:
    from llamaleon_trainer.similar import Pair  # which brings numpy: only those wait for it who compare

LISTED_PROBLEMS = 20
FEW_ROWS = 100
MOST_COMPARED = 100_000  # rows: more would take a minute and a gigabyte


def read_rows(
    training: StoredFile, validation: StoredFile | None, text_template: str | None = None
) -> tuple[list[DataRow], list[DataRow] | None]:
    """Rows to train on, and the held-out ones if they have a file of their own. Blocks.

    Raises:
        JobFailed: malformed rows, listed with their lines and reasons.
    """
    train = _checked(training, "training_file", text_template)
    if validation is None:
        return train.rows, None
    return train.rows, _checked(validation, "validation_file", text_template).rows


def _checked(file: StoredFile, param: str, text_template: str | None) -> Dataset:
    dataset = read(file, param, text_template)
    if dataset.problems:
        bad = f"{len(dataset.problems)} of {len(dataset.problems) + len(dataset.rows)} rows"
        raise JobFailed(
            f"invalid_{param}",
            f"{file.filename}: {bad} are malformed. {listed(dataset.problems, dataset.unit)}",
            param,
        )
    return dataset


def read(file: StoredFile, param: str, text_template: str | None = None) -> Dataset:
    """With its malformed rows. Blocks. Raises: JobFailed if there is no reading it."""
    try:
        return read_dataset(file.path, file.filename, text_template)
    except OSError as error:
        raise JobFailed("invalid_file", f"{file.id} cannot be read: {error}", param) from error
    except ValueError as error:
        raise JobFailed("invalid_text_template", str(error), "text_template") from error


def listed(problems: Sequence[Problem], unit: str = "line") -> str:
    shown = "; ".join(f"{unit} {problem.line}: {problem.reason}" for problem in problems[:LISTED_PROBLEMS])
    more = len(problems) - LISTED_PROBLEMS
    return f"{shown}; and {more} more." if more > 0 else f"{shown}."


def require_method(method: str, rows: Sequence[DataRow], param: str) -> None:
    """Raises: JobFailed for preference rows in a job that is not dpo, and the reverse."""
    wanted = method == "dpo"
    wrong = [row.line for row in rows if (row.rejected is not None) != wanted]
    if not wrong:
        return
    if wanted:
        what, hint = "is no preference row", 'use the method "supervised" or give chosen and rejected answers'
    else:
        what, hint = "is a preference row", 'use the method "dpo", or leave the rejected answers out'
    raise JobFailed(
        f"invalid_{param}", f'The method is "{method}", but line {wrong[0]} {what}: {hint}.', param
    )


class Alike(Struct, frozen=True):
    """Near-duplicates among the rows to train on, followed by those of a held-out file.

    `pairs` are places in that list; None if there are too many rows to compare.
    """

    pairs: list[Pair] | None
    rows: list[DataRow]

    def places(self) -> list[tuple[int, int]]:
        return [(pair.first, pair.second) for pair in self.pairs or ()]


def look_for_likes(train: list[DataRow], held_out: list[DataRow] | None) -> Alike:
    """Blocks for seconds where there are many rows."""
    from llamaleon_trainer.similar import near_duplicates

    rows = [*train, *(held_out or ())]
    if len(rows) > MOST_COMPARED:
        return Alike(None, rows)
    return Alike(near_duplicates([row.said() for row in rows]), rows)


def warnings(train: Sequence[DataRow], held_out: Sequence[DataRow], alike: Alike) -> list[str]:
    """What a user should know about the rows, in sentences."""
    from llamaleon_trainer.similar import THRESHOLD

    found = []
    if len(train) + len(held_out) < FEW_ROWS:
        found.append(
            f"Only {len(train) + len(held_out)} rows: below {FEW_ROWS}, expect an adapter that overfits."
        )
    repeated = repeats(train)
    if repeated:
        found.append(f"{len(repeated)} training rows repeat an earlier one.")
    trained = {row.content() for row in train}
    leaked = [row.line for row in held_out if row.content() in trained]
    if leaked:
        found.append(
            f"{len(leaked)} held-out rows are also trained on ({_lines(leaked)}): the evaluation flatters."
        )
    if alike.pairs is None:
        found.append(f"More than {MOST_COMPARED} rows: near-duplicates were not looked for.")
    near = [row.line for row, _, _ in across(train, held_out, alike)]
    if near:
        found.append(
            f"{len(near)} held-out rows are near-duplicates of rows that are trained on ({_lines(near)}; at "
            f"least {THRESHOLD:.0%} alike): the evaluation flatters."
        )
    return found


def repeats(rows: Sequence[DataRow]) -> list[tuple[DataRow, DataRow]]:
    """(a row, the first that is the same)."""
    seen: dict[bytes, DataRow] = {}
    found = []
    for row in rows:
        first = seen.setdefault(row.content(), row)
        if first is not row:
            found.append((row, first))
    return found


def across(
    train: Sequence[DataRow], held_out: Sequence[DataRow], alike: Alike
) -> list[tuple[DataRow, DataRow, float]]:
    """(a held-out row, one to train on that it is like, how much), each held-out row once."""
    trained, held = set(map(id, train)), set(map(id, held_out))
    found: dict[int, tuple[DataRow, DataRow, float]] = {}
    for pair in alike.pairs or ():
        one, other = alike.rows[pair.first], alike.rows[pair.second]
        for row, like in ((one, other), (other, one)):
            if id(row) in held and id(like) in trained and row.content() != like.content():
                best = found.get(id(row))
                if best is None or best[2] < pair.similarity:
                    found[id(row)] = (row, like, pair.similarity)
    return sorted(found.values(), key=lambda item: item[0].line)


def _lines(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:LISTED_PROBLEMS]))
    return f"lines {shown} ..." if len(lines) > LISTED_PROBLEMS else f"lines {shown}"
