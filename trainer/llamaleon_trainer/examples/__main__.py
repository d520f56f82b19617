"""`python -m llamaleon_trainer.examples NAME`: writes the rows of a recipe, and says where as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from llamaleon_trainer.examples import RECIPES, write


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m llamaleon_trainer.examples", description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the two files")
    parser.add_argument("--rows", type=int, default=600, help="to train on")
    parser.add_argument("--held-out", type=int, default=200, help="to judge by")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        train, held_out = write(options.name, options.out, options.rows, options.held_out, options.seed)
    except (OSError, ValueError) as error:
        print(json.dumps({"error": {"message": str(error)}}), file=sys.stderr)
        return 1
    print(json.dumps({"train": str(train), "held_out": str(held_out)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
