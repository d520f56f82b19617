"""What a job needs, and that the pipeline asks for its place with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.server.jobs.conftest import rows, serving

from llamaleon_server.engine.protocol import GenerateRequest, Gpu
from llamaleon_server.jobs.need import CUDA_CONTEXT_BYTES, needed_bytes
from llamaleon_server.registry.records import Target
from llamaleon_server.residents import sharing
from llamaleon_trainer.job import JobSpec, PreferenceRow, Row, write_spec


def job_directory(folder: Path, base: Path, data: list[Row] | list[PreferenceRow], **spec: object) -> Path:
    import msgspec

    folder.mkdir()
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in data)
    (folder / "train.jsonl").write_bytes(lines)
    write_spec(folder, JobSpec(job_id="j", base=str(base), **spec))  # type: ignore[arg-type]  # fields by name
    return folder


def test_it_grows_with_the_rows_and_counts_both_answers(tmp_path: Path, home: Path) -> None:
    base = tmp_path / "tiny.gguf"
    short, long = Row([1] * 8, [1.0] * 8), Row([1] * 400, [1.0] * 400)
    small = needed_bytes(job_directory(tmp_path / "a", base, [short]), gpu=False)
    large = needed_bytes(job_directory(tmp_path / "b", base, [long]), gpu=False)
    pair = [PreferenceRow(short, long)]
    both = needed_bytes(job_directory(tmp_path / "c", base, pair, method="dpo"), gpu=False)
    assert small is not None
    assert large is not None
    assert both is not None
    assert small < large < both


def test_a_gpu_has_its_own_reckoning(tmp_path: Path, home: Path) -> None:
    row = Row([1] * 8, [1.0] * 8)
    folder = job_directory(tmp_path / "a", tmp_path / "tiny.gguf", [row])
    gpu, cpu = needed_bytes(folder, gpu=True), needed_bytes(folder, gpu=False)
    assert gpu is not None
    assert gpu > CUDA_CONTEXT_BYTES
    assert gpu != cpu
    spec = job_directory(tmp_path / "b", tmp_path / "tiny.gguf", [row], device="cpu")
    assert needed_bytes(spec, gpu=True) == cpu, "one that is told to stay off the GPU"


def test_a_base_that_is_no_gguf_cannot_be_told(tmp_path: Path) -> None:
    folder = job_directory(tmp_path / "a", tmp_path, [Row([1, 2], [0.0, 1.0])])
    assert needed_bytes(folder, gpu=False) is None


@pytest.mark.parametrize("policy", ["share", "yield", "wait"])
async def test_a_job_waits_for_its_place_and_can_be_paused_there(
    home: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "LOOK_S", 0.01)
    async with serving(home, training_gpu=policy) as service:
        service.engines.gpus = [Gpu(name="faked", free_bytes=1, total_bytes=1 << 40)]
        service.jobs._pipeline._sharing.free_gpu = lambda: 0
        base = service.registry.base("tiny")
        target = Target(requested="tiny", base=base)

        async def answer() -> None:
            async for _ in service.residents.generate(target, GenerateRequest(prompt=[1, 120])):
                pass

        await answer()
        engine = service.engines.last
        engine.gate.clear()
        running = asyncio.create_task(answer())
        job = service.create(rows(20))
        try:
            await service.until(job, lambda record: any("Training waits" in m for m in service.messages(job)))
        except AssertionError:
            engine.gate.set()
            raise
        assert not service.jobs._pipeline.sidecar(job.id).begun
        service.jobs.pause(job.id)
        async with asyncio.timeout(60):
            while job.id in service.jobs._tasks:
                await asyncio.sleep(0.02)
        engine.gate.set()
        await running
        service.jobs.resume(job.id)
        job = await service.ended(job)
        assert job.status == "succeeded", service.messages(job)
        assert not service.residents.off_gpu
        assert service.residents.room.training == 0
