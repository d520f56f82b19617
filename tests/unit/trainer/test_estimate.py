"""The estimate: what it counts, that it follows the job's settings, and how near it comes to a real job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.bench.train_model import QUICK, LlamaShape, rows, write_job, write_model
from tests.unit.trainer.jobs import events, run_here
from tests.unit.trainer.jobs import write_job as write_story_job

from llamaleon_convert.header import read_header
from llamaleon_trainer import estimate as module
from llamaleon_trainer.estimate import GUESS, Speed, Work, estimate, pass_work, passes, shape_of
from llamaleon_trainer.job import JobSpec, LoraSettings
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
    for packing in (False, True):
        made = list(passes(LENGTHS, spec(packing=packing, batch_size=8), 2))
        if packing:
            assert sum(map(sum, made)) == sum(LENGTHS)
            assert max(map(sum, made)) <= 2 * max(LENGTHS)
        else:
            assert sum(map(len, made)) == len(LENGTHS)
            assert max(map(len, made)) == 2
            assert sum(map(sum, made)) >= sum(LENGTHS)


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


def test_the_nearness_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass is said to keep, beside what torch saves of it, over widths, lengths and checkpointing."""
    from llamaleon_trainer.preflight import Trial

    seen: list[tuple[float, float]] = []
    kept = Trial.kept

    def compared(self: Trial) -> Any:
        found = kept(self)
        seen.append((found.per_token, self.reckoned().per_token))
        return found

    monkeypatch.setattr(Trial, "kept", compared)
    shapes = (QUICK, LlamaShape(hidden=192, layers=3, ffn=512, heads=4, kv_heads=2, vocabulary=1024))
    for number, shape in enumerate(shapes):
        path, _ = write_model(tmp_path / f"model{number}", shape)
        job = tmp_path / f"job{number}"
        made = rows(shape, 80, longest=256)
        write_job(job, path, made, batch_size=8, device="cpu", precision="float32", threads=1)
        run_here(job)
    for measured, reckoned in seen:
        assert reckoned == pytest.approx(measured, rel=0.2)
    assert len(seen) == len(shapes)
    assert module.CPU_PASS_TOKENS >= 256


def _spec(job: Path) -> JobSpec:
    from llamaleon_trainer.job import read_spec

    return read_spec(job)
