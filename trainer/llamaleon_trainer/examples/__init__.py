"""Data of the five recipes, in Spanish, written from a seed: the splits share no question and no name.

    python -m llamaleon_trainer.examples tickets --out data --rows 600 --held-out 200

Each recipe is a function that draws one row from `Words`: what is asked, and what is to be answered.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from llamaleon_trainer.examples import code, extractor, stoic, tickets, tone
from llamaleon_trainer.nano.words import Split, Words, is_heldout

Draw = Callable[[Words], tuple[str, str]]

RECIPES: dict[str, Draw] = {
    "stoic": stoic.draw,
    "tickets": tickets.draw,
    "extractor": extractor.draw,
    "code": code.draw,
    "tone": tone.draw,
}


def rows(name: str, count: int, seed: int, split: Split) -> Iterator[dict[str, object]]:
    """`count` different rows in OpenAI's chat form. Raises: ValueError if there are not so many."""
    words = Words(random.Random(f"{name}-{split}-{seed}"), split)
    seen: set[tuple[str, str]] = set()
    for _ in range(count):
        for _ in range(1000):
            asked, answer = RECIPES[name](words)
            # Not every row has a name in it: what tells the splits apart then is the row itself.
            if is_heldout(asked) == (split == "heldout") and (asked, answer) not in seen:
                break
        else:
            raise ValueError(f"{name}: there are no {count} different rows")
        seen.add((asked, answer))
        yield {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def write(name: str, folder: Path, train: int, held_out: int, seed: int) -> tuple[Path, Path]:
    """NAME_train.jsonl and NAME_heldout.jsonl. Raises: OSError, ValueError."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}_train.jsonl", folder / f"{name}_heldout.jsonl"
    splits: tuple[Split, Split] = ("train", "heldout")
    for path, count, split in zip(paths, (train, held_out), splits, strict=True):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(name, count, seed, split)]
        path.write_text("".join(lines), encoding="utf-8")
    return paths
