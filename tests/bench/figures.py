"""One measured figure and how it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Figure:
    """`raw` keeps what the shown value was made of, unit in each key.

    `detail` is Markdown for below the table: a profile, the flags of a server.
    """

    what: str
    measured: str
    goal: str | None = None
    raw: dict[str, float] = field(default_factory=dict)
    detail: str = ""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)
