"""`python -m llamaleon_trainer.nano` trains the model that ships; `--demo-data` writes the demo's rows."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from llamaleon_trainer.nano import reports

_ROOT = Path(__file__).resolve().parents[3]
_MODEL = _ROOT / "server" / "llamaleon_server" / "models" / "nano.gguf"
_DEMO = _ROOT / "clients" / "llamaleon_clients" / "demo_data"
_DEMO_SEED = 7
_TRAIN_ROWS, _HELDOUT_ROWS = 400, 100
_CHECKED_CONVERSATIONS = 500


def write_demo_data(folder: Path) -> None:
    """The rows that the demonstration trains on, and those it is judged by."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "reports_train.jsonl": reports.generate(_TRAIN_ROWS, _DEMO_SEED, "train"),
        "reports_heldout.jsonl": reports.generate(_HELDOUT_ROWS, _DEMO_SEED, "heldout"),
    }
    for name, content in rows.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in content]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def make_model(out: Path, steps: int | None, threads: int, save_every: int) -> None:
    """Train and export; every `save_every` steps what there is so far is exported to the same place."""
    import torch  # here, so that --demo-data works without it

    from llamaleon_trainer.nano import corpus, train
    from llamaleon_trainer.nano import tokenizer as tok
    from llamaleon_trainer.nano.export import export
    from llamaleon_trainer.nano.model import Nano

    torch.set_num_threads(threads)
    recipe = train.Recipe() if steps is None else train.Recipe(steps=steps)
    tokenizer = tok.train(recipe.seed)
    recent: list[float] = []

    def report(progress: train.Progress, model: Nano) -> None:
        recent.append(progress.loss)
        if progress.step % 100 == 0:
            mean = sum(recent) / len(recent)
            speed = progress.tokens / progress.seconds
            done = f"{progress.tokens / 1e6:.1f} M tokens  {speed:.0f} tokens/s  {progress.seconds:.0f} s"
            print(f"step {progress.step}  loss {mean:.4f}  {done}", flush=True)
            recent.clear()
        if progress.step % save_every == 0:
            export(model, tokenizer, out)

    model = train.train(tokenizer, recipe, report)
    export(model, tokenizer, out)
    right = train.exact_match(model, tokenizer, corpus.rows(recipe.seed + 1, _CHECKED_CONVERSATIONS))
    print(f"wrote {out}; {sum(right)} of {len(right)} fresh conversations answered exactly")


def main(arguments: list[str]) -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m llamaleon_trainer.nano", description=__doc__)
    parser.add_argument("--demo-data", action="store_true", help="write the demonstration's rows and stop")
    parser.add_argument("--out", type=Path, help="the GGUF file, or with --demo-data the folder")
    parser.add_argument("--steps", type=int, help="fewer than the shipped model's, for a try")
    parser.add_argument("--threads", type=int, default=2, help="the shipped model was made with 2")
    parser.add_argument("--save-every", type=int, default=1000, help="steps between interim exports")
    options = parser.parse_args(arguments)
    if options.demo_data:
        write_demo_data(options.out or _DEMO)
    else:
        make_model(options.out or _MODEL, options.steps, options.threads, options.save_every)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
