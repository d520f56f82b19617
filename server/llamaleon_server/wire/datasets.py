"""Requests and answers about data sets: fetched from the hub, and looked at before anything is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from llamaleon_server.wire.hub import Text, Token
from llamaleon_server.wire.shown import File


class HubRequest(Struct, frozen=True):
    """`name`: hf:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]; the split is `train` if none is named."""

    name: Text
    token: Token | None = None


class HubFile(File, frozen=True, kw_only=True):
    """The file object, and what became of the rows. Columns that are no text were left out."""

    rows: int
    left_out_columns: list[str]


class CheckRequest(Struct, frozen=True, kw_only=True):
    """`model`: count in its tokens, and show rows as it will see them; without one, characters."""

    training_file: Text
    validation_file: Text | None = None
    model: Text | None = None
    method: Literal["supervised", "dpo"] | None = None
    text_template: Text | None = None
    hyperparameters: dict[str, Any] = {}
    shown: Annotated[int, Meta(ge=0, le=20)] = 3


class RowProblem(Struct, frozen=True):
    line: int
    reason: str


class Bucket(Struct, frozen=True):
    """Rows of `least` to `most` tokens (or characters)."""

    least: int
    most: int
    rows: int


class Lengths(Struct, frozen=True, kw_only=True):
    """Of the rows, in `unit`; `learned` of all of them count in the loss."""

    unit: Literal["tokens", "characters"]
    shortest: int
    median: int
    mean: float
    longest: int
    total: int
    learned: int
    histogram: list[Bucket]


class ShownPiece(Struct, frozen=True):
    text: str
    trained: bool


class ShownRow(Struct, frozen=True, omit_defaults=True):
    """A row as it will be read; of a preference row also the answer liked less."""

    line: int
    pieces: list[ShownPiece]
    rejected: list[ShownPiece] = []


class Likeness(Struct, frozen=True):
    """`line` is like `of` (lines of the files they are in); 1 is the same."""

    line: int
    of: int
    similarity: float


class Likes(Struct, frozen=True, kw_only=True):
    """How many there are, and the first of them."""

    count: int
    examples: list[Likeness]


class CheckedFile(Struct, frozen=True, kw_only=True):
    id: str
    filename: str
    shape: str  # how its rows are written; "" where none could be read
    unit: Literal["line", "row"]  # what `line` counts in this file
    rows: int
    malformed: int
    problems: list[RowProblem]  # the first of them
    roles: dict[str, int]  # messages by role
    kinds: dict[str, int]  # rows by what they are


class Cost(Struct, frozen=True, kw_only=True):
    """What training will take: see `llamaleon_trainer.estimate`."""

    memory_bytes: int  # at its peak, of the device
    seconds: float | None  # None until a job has measured this machine
    device: str  # cpu or cuda
    basis: str  # what the seconds were reckoned from


class DatasetCheck(Struct, frozen=True, kw_only=True):
    object: Literal["dataset.check"] = "dataset.check"
    ok: bool  # a job with these files would not be refused because of its rows
    training: CheckedFile
    validation: CheckedFile | None
    train_rows: int
    held_out_rows: int
    lengths: Lengths | None
    limit: int | None  # tokens of the longest row that is allowed
    too_long: list[RowProblem]
    refused: list[RowProblem]  # by the model's chat template
    shown: list[ShownRow]
    duplicates: Likes
    near_duplicates: Likes
    leaked: Likes  # held-out rows that are also trained on
    near_leaked: Likes  # held-out rows that are near-duplicates of trained ones
    threshold: float  # similarity from which rows count as near-duplicates
    warnings: list[str]
    cost: Cost | None
