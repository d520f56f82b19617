"""The estimate: what it counts, that it follows the job's settings, and how near it comes to a real job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests import tiny
from tests.bench.train_model import QUICK, LlamaShape, rows, write_job, write_model
from tests.unit.trainer.jobs import events, run_here, write_rows
from tests.unit.trainer.jobs import write_job as write_story_job

from llamaleon_convert.header import read_header
from llamaleon_trainer import estimate as module
from llamaleon_trainer.estimate import GUESS, Reckoning, Speed, Work, estimate, pass_work
from llamaleon_trainer.job import JobSpec, LoraSettings, PreferenceRow, Row
from llamaleon_trainer.order import cut
from llamaleon_trainer.shape import shape_of
from llamaleon_trainer.speeds import find_speed, note_speed, read_speeds

LENGTHS = [32 * (1 + index % 8) for index in range(64)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, _ = write_model(tmp_path_factory.mktemp("base") / "model", QUICK)
    return path


def spec(**changes: Any) -> JobSpec:
    return JobSpec(job_id="job", base="base.gguf", **changes)


def test_the_shape_is_read_from_the_header(base: Path) -> None:
    shape = shape_of(read_header(base), spec(lora=LoraSettings(r=4)))
    linears = [(n_out, n_in) for _, n_out, n_in in QUICK.linears().values()]
    assert shape.linear == QUICK.layers * sum(n_out * n_in for n_out, n_in in linears)
    assert shape.lora == 4 * QUICK.layers * sum(map(sum, linears))
    assert (shape.hidden, shape.ffn, shape.layers) == (QUICK.hidden, QUICK.ffn, QUICK.layers)
    assert shape.vocabulary == QUICK.vocabulary
    some = shape_of(read_header(base), spec(lora=LoraSettings(r=4, target_modules=["q_proj", "v_proj"])))
    assert some.lora == 4 * QUICK.layers * 2 * 2 * QUICK.hidden


def test_adapters_are_counted_as_they_are_made(base: Path, tmp_path: Path) -> None:
    """Against the model that the trainer builds."""
    job = write_job(tmp_path / "job", base, rows(QUICK, 16, longest=64), batch_size=8, device="cpu")
    run_here(job)
    from safetensors.numpy import load_file

    made = load_file(job / "adapter" / "adapter_model.safetensors").values()
    assert shape_of(read_header(base), spec()).lora == sum(tensor.size for tensor in made)


def test_automatic_weights_are_those_that_the_trainer_would_take(tmp_path: Path) -> None:
    header = read_header(tiny.make("llama", tmp_path, file_type="Q8_0").gguf)

    def need(weights: str, free_bytes: int | None = None) -> int:
        return estimate(header, spec(base_weights=weights), LENGTHS, free_bytes=free_bytes).memory_bytes

    assert need("gguf") < need("full")
    assert need("auto", 1 << 10) == need("gguf", 1 << 40) == need("gguf")
    assert need("auto", 1 << 40) == need("auto") == need("full")
    assert need("nf4", 1 << 10) == need("nf4")


def test_more_of_everything_takes_more(base: Path) -> None:
    header = read_header(base)
    plain = estimate(header, spec(), LENGTHS)
    twice = estimate(header, spec(epochs=6), LENGTHS)
    assert (twice.steps, twice.tokens) == (2 * plain.steps, 2 * plain.tokens)
    assert twice.seconds > plain.seconds
    assert estimate(header, spec(max_steps=3), LENGTHS).steps == 3
    wide = estimate(header, spec(micro_batch_size=8), LENGTHS)
    narrow = estimate(header, spec(micro_batch_size=1), LENGTHS)
    checkpointed = estimate(header, spec(micro_batch_size=8, gradient_checkpointing=True), LENGTHS)
    assert narrow.memory_bytes < wide.memory_bytes
    assert checkpointed.memory_bytes < wide.memory_bytes
    assert checkpointed.seconds > wide.seconds
    assert estimate(header, spec(optimizer="adamw_8bit"), LENGTHS).memory_bytes < plain.memory_bytes
    assert estimate(header, spec(packing=True), LENGTHS).seconds < plain.seconds, "no padding"
    assert estimate(header, spec(base_weights="nf4"), LENGTHS).memory_bytes < plain.memory_bytes
    assert estimate(header, spec(), LENGTHS, valid_lengths=LENGTHS).seconds > plain.seconds
    assert plain.basis == GUESS.basis
    with pytest.raises(ValueError, match="no rows"):
        estimate(header, spec(), [])


def test_passes_hold_every_row_once_and_no_more_than_they_may() -> None:
    rows = [(length,) for length in LENGTHS] + [(32, 96)] * 3
    for packed in (False, True):
        made = [rows[part] for part in cut(rows, 1024, most=5, packed=packed)]
        assert [row for part in made for row in part] == rows
        assert max(map(len, made)) == 5
        for part in made:
            lengths = [length for row in part for length in row]
            assert (sum(lengths) if packed else max(lengths) * len(lengths)) <= 1024
    assert list(cut([], 1024, most=5, packed=False)) == []
    assert len(list(cut(rows, 1, most=5, packed=True))) == len(rows), "one row at least"


def test_pairs_are_two_sequences_and_their_reference_reads_them_once(base: Path) -> None:
    header = read_header(base)
    shape = replace(shape_of(header, spec()), lora=0)
    pairs: list[tuple[int, ...]] = [(length, length) for length in LENGTHS]

    def numbers(rows: list[tuple[int, ...]], steps: int, **changes: Any) -> float:
        """One row a pass, so that nothing is padded."""
        reckoned = Reckoning(shape, spec(batch_size=8, **changes), 0.5, budget=1)
        return reckoned.job(reckoned.batches(rows), rows[:8], steps).numbers

    read = shape.kept * shape.layers / 3  # numbers of a token that passes forwards
    dpo, same = numbers(pairs, 16, method="dpo"), numbers(pairs, 16)
    assert dpo - same == pytest.approx(read * 2 * (sum(LENGTHS) + sum(LENGTHS[:8])))
    assert numbers([(length,) for length in LENGTHS], 16) == pytest.approx(same / 2)
    met = numbers(pairs, 4, method="dpo") - numbers(pairs, 4)
    ahead = numbers(pairs, 4, method="dpo", init_adapter="x") - numbers(pairs, 4)
    assert ahead == pytest.approx(dpo - same)
    assert met == pytest.approx(read * 2 * (sum(LENGTHS) / 2 + sum(LENGTHS[:8]))), "half of the rows are met"
    memory = [estimate(header, spec(micro_batch_size=4), rows).memory_bytes for rows in (LENGTHS, pairs)]
    assert memory[0] < memory[1]


def test_recomputing_costs_another_forward_pass(base: Path) -> None:
    shape = replace(shape_of(read_header(base), spec()), lora=0, vocabulary=0)
    plain, again = (pass_work(shape, [64], 0, trained=True, recomputed=flag) for flag in (False, True))
    assert again.flops == pytest.approx(1.5 * plain.flops)
    assert pass_work(shape, [64], 0, trained=False, recomputed=False).flops == plain.flops / 2


def test_speeds_are_kept_by_machine_and_by_base(tmp_path: Path) -> None:
    path, job = tmp_path / "speeds.json", spec()
    assert find_speed(path, job) is GUESS
    measured = Speed(1e-10, 2e-9, 3e-3)
    note_speed(path, job, "cpu", "float32", measured)
    assert find_speed(path, job).per_flop == 1e-10
    assert find_speed(path, job).basis == "earlier jobs on this base"
    other = msgspec.structs.replace(job, base="other.gguf")
    assert find_speed(path, other).basis == "an earlier job on another base"
    assert find_speed(path, other, "cuda", "bfloat16") is GUESS
    path.write_text("{")
    assert read_speeds(path).machine == {}


def test_seconds_are_work_times_cost() -> None:
    speed = Speed(1e-9, 1e-6, 1e-3)
    assert speed.seconds(Work(2e9, 3e6, 4e3)) == pytest.approx(2 + 3 + 4)
    assert speed.scaled(2, "x").seconds(Work(2e9)) == pytest.approx(4)


def test_a_job_says_what_it_will_take_before_its_first_step(tmp_path: Path) -> None:
    job = write_story_job(tmp_path / "job", epochs=5, batch_size=4, device="cpu")
    run_here(job)
    types = [event.type for event in events(job)]
    assert types.index("estimate") < types.index("step")
    (said,) = events(job, "estimate")
    assert said.data["basis"] == "the first passes, tried"
    assert said.data["steps"] == len(events(job, "step")) == 20
    assert said.data["seconds"] > 0
    assert said.data["memory_bytes"] > 100 << 20
    # The next job on this base can be estimated without torch.
    kept = find_speed(tmp_path / "training-speeds.json", _spec(job))
    assert kept.basis == "earlier jobs on this base"
    assert kept.start_s > 0, "what starting took is learnt, too"
    foretold = [
        estimate(
            read_header(Path(_spec(job).base)),
            _spec(job),
            [24] * 16,
            msgspec.structs.replace(kept, start_s=start),
        ).seconds
        for start in (1.0, 11.0)
    ]
    assert foretold[1] - foretold[0] == pytest.approx(10)


def test_a_short_job_is_not_tried(tmp_path: Path) -> None:
    job = write_story_job(tmp_path / "job", epochs=1, batch_size=4, device="cpu")
    run_here(job)
    assert events(job, "estimate")[0].data["basis"] == GUESS.basis


def test_trying_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same losses with and without trial passes, with dropout, which draws random numbers."""
    from tests.unit.trainer.jobs import losses

    from llamaleon_trainer import preflight

    settings: dict[str, Any] = {"epochs": 3, "batch_size": 4, "lora": LoraSettings(r=4, lora_dropout=0.2)}
    tried = write_story_job(tmp_path / "tried", **settings)
    run_here(tried)
    monkeypatch.setattr(preflight, "SHORT_JOB_STEPS", 10**9)
    untried = write_story_job(tmp_path / "untried", **settings)
    run_here(untried)
    assert events(tried, "estimate")[0].data["basis"] != events(untried, "estimate")[0].data["basis"]
    assert losses(tried) == losses(untried)


def test_passes_are_smaller_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamaleon_trainer.preflight import Trial

    shown = {}
    for name, free in (("plenty", 1 << 40), ("little", 8 << 20)):
        monkeypatch.setattr(Trial, "_free", lambda _, free=free: free)
        job = write_story_job(tmp_path / name, epochs=3, batch_size=4, device="cpu")
        run_here(job)
        shown[name] = events(job, "estimate")[0].data["rows_per_pass"]
    assert shown["plenty"] == 4
    assert shown["little"] < 4


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_what_is_said_without_torch_is_what_the_job_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The work of the whole job and what a pass keeps, over widths, lengths and both methods."""
    from llamaleon_trainer.preflight import Trial

    seen: list[tuple[float, float]] = []
    worked: list[Work] = []
    measured, work = Trial.measured, Trial.work

    def compared(self: Trial) -> Any:
        found = measured(self)
        seen.append((found.kept, self.reckoned().kept))
        return found

    def counted(self: Trial) -> Work:
        worked.append(work(self))
        return worked[-1]

    monkeypatch.setattr(Trial, "measured", compared)
    monkeypatch.setattr(Trial, "work", counted)
    shapes = (QUICK, LlamaShape(hidden=192, layers=3, ffn=512, heads=4, kv_heads=2, vocabulary=1024))
    for number, shape in enumerate(shapes):
        path, _ = write_model(tmp_path / f"model{number}", shape)
        job = tmp_path / f"job{number}"
        made = rows(shape, 88, longest=256)
        settings: dict[str, Any] = {"batch_size": 4, "device": "cpu", "precision": "float32", "threads": 1}
        write_job(job, path, made, **settings, method=method)
        told: list[tuple[int, ...]] = [(len(row.tokens),) for row in made]
        if method == "dpo":
            pairs = [_pair(row) for row in made]
            write_rows(job / "train.jsonl", pairs)
            told = [(len(pair.chosen.tokens), len(pair.rejected.tokens)) for pair in pairs]
        run_here(job)
        said = events(job, "estimate")[0].data
        before = estimate(read_header(path), _spec(job), told, Speed(1, 0, 0))
        assert (before.steps, before.rows_per_pass) == (said["steps"], said["rows_per_pass"])
        reckoned = Reckoning(shape_of(read_header(path), _spec(job)), _spec(job), 0.5, 1024)
        foretold = reckoned.job(reckoned.batches(told), [], before.steps)
        assert foretold.flops == pytest.approx(worked[-1].flops, rel=0.15)
        assert foretold.numbers == pytest.approx(worked[-1].numbers, rel=0.1)
    for saved, reckoning in seen:
        assert reckoning == pytest.approx(saved, rel=0.2)
    assert len(seen) == len(worked) == len(shapes)
    assert module.CPU_PASS_TOKENS >= 256


def _pair(row: Row) -> PreferenceRow:
    half = len(row.tokens) // 2
    other = Row(row.tokens[:half] + row.tokens[half:][::-2], (row.weights[:half] + row.weights[half::2]))
    return PreferenceRow(row, other)


def _spec(job: Path) -> JobSpec:
    from llamaleon_trainer.job import read_spec

    return read_spec(job)
