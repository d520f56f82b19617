"""A whole job on each kind of base weights, and the targets it refuses before a weight is read."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tests import tiny
from tests.tiny.reference import llama_logits, mean_kl, open_model
from tests.unit.trainer import jobs

from llamaleon_convert import convert
from llamaleon_trainer.base import load
from llamaleon_trainer.base.load import load_base
from llamaleon_trainer.errors import BadJob
from llamaleon_trainer.job import JobSpec, LoraSettings, Row, read_spec, write_spec
from llamaleon_trainer.lora import add_lora, save_lora
from llamaleon_trainer.targets import Targets, check

CPU = torch.device("cpu")


def test_packed_and_full_jobs_give_the_same_adapter(tmp_path: Path) -> None:
    """The small trained model in F32: packed, its rows are those of the file."""
    found = {}
    for weights in ("full", "gguf"):
        job = jobs.write_job(tmp_path / weights, epochs=1, base_weights=weights)
        jobs.run_here(job)
        found[weights] = jobs.adapter_weights(job)
        assert jobs.events(job)[-1].type == "finished"
        assert jobs.events(job, "base_checked")[0].data["mean_kl"] < 1e-9
    assert found["full"].keys() == found["gguf"].keys()
    for name, values in found["full"].items():
        np.testing.assert_array_equal(values, found["gguf"][name])


def test_nf4_job_is_proved_on_what_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.nn import Params4bit

    beside: list[int] = []

    def load(*args: Any) -> Any:
        gc.collect()
        beside.append(sum(part.numel() for part in gc.get_objects() if type(part) is Params4bit))
        return load_base(*args)

    monkeypatch.setattr("llamaleon_trainer.served.load_base", load)
    job = jobs.write_job(tmp_path, epochs=2, base_weights="nf4")
    jobs.run_here(job)
    assert beside == [0, 0]  # memory holds the base once
    assert jobs.events(job)[-1].type == "finished"
    assert jobs.events(job, "base_checked")[0].data["mean_kl"] < 1e-9
    convert(job / "adapter", jobs.stories_base(), tmp_path / "lora.gguf")
    trained = np.load(job / "probe.adapter.npz")["0"]
    served = llama_logits(jobs.stories_base(), jobs.PROBE[0], [(tmp_path / "lora.gguf", 1.0)])
    assert mean_kl(trained, served) < 1e-9
    assert mean_kl(llama_logits(jobs.stories_base(), jobs.PROBE[0]), served) > 1e-3


def test_rslora_is_served_as_it_was_trained(tmp_path: Path) -> None:
    """Its scale, alpha over the root of the rank, is folded into B: GGUF knows only alpha over rank."""
    lora = LoraSettings(r=16, lora_alpha=8, use_rslora=True)
    job = jobs.write_job(tmp_path, epochs=2, base_weights="gguf", lora=lora)
    jobs.run_here(job)
    convert(job / "adapter", jobs.stories_base(), tmp_path / "lora.gguf")
    trained = np.load(job / "probe.adapter.npz")
    with open_model(jobs.stories_base()) as model:
        for number, tokens in enumerate(jobs.PROBE):
            served = model.logits(tokens, [(tmp_path / "lora.gguf", 1.0)])
            assert mean_kl(trained[str(number)], served) < 1e-9
            assert mean_kl(model.logits(tokens), served) > 1e-3  # so it does learn
            assert mean_kl(model.logits(tokens, [(tmp_path / "lora.gguf", 0.25)]), served) > 1e-3


def test_the_head_and_the_embedding_are_trained_and_proved(tmp_path: Path) -> None:
    """peft puts its layers around them after the base has been proved: the loss must go through those."""
    base = tiny.make("qwen2", tmp_path / "base").gguf
    lora = LoraSettings(r=4, target_modules=["lm_head", "embed_tokens"])
    job = jobs.write_job(tmp_path / "job", epochs=2, batch_size=4, lora=lora)
    (job / "probe.base.npz").unlink()  # of another base
    rows = [Row([(7 * place + row) % 200 + 3 for place in range(20)], [1.0] * 20) for row in range(16)]
    jobs.write_rows(job / "train.jsonl", rows)
    jobs.write_rows(job / "valid.jsonl", rows[:2])
    write_spec(job, msgspec.structs.replace(read_spec(job), base=str(base)))
    jobs.run_here(job)
    assert jobs.losses(job)[8] < jobs.losses(job)[1]
    weights = jobs.adapter_weights(job)
    assert len(weights) == 4
    assert all(np.abs(values).max() > 1e-3 for values in weights.values())
    convert(job / "adapter", base, tmp_path / "lora.gguf")
    trained = np.load(job / "probe.adapter.npz")["0"]
    served = llama_logits(base, jobs.PROBE[0], [(tmp_path / "lora.gguf", 1.0)])
    assert mean_kl(trained, served) < 1e-9
    assert mean_kl(llama_logits(base, jobs.PROBE[0]), served) > 1e-3


EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "q_proj"]


def test_experts_by_name(tmp_path: Path) -> None:
    """From the first random step to llama.cpp's logits: what peft computes on them is what is served."""
    path = tiny.make("qwen3moe", tmp_path).gguf
    spec = spec_of(path, EXPERTS)
    assert check(spec) == Targets(["q_proj"], EXPERTS[:2])
    wrapped = add_lora(load.load_base(path, CPU, torch.float32), spec).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    save_lora(wrapped, tmp_path / "adapter")
    convert(tmp_path / "adapter", path, tmp_path / "lora.gguf")
    tokens = [(7 * n) % 250 + 3 for n in range(20)]
    with torch.no_grad():
        trained = wrapped(input_ids=torch.tensor([tokens])).logits[0].numpy()
    served = llama_logits(path, tokens, [(tmp_path / "lora.gguf", 1.0)])
    assert mean_kl(trained, served) < 1e-8
    assert mean_kl(llama_logits(path, tokens), served) > 1e-3


@pytest.mark.parametrize("weights", ["nf4", "gguf"])
def test_experts_need_full_weights(tmp_path: Path, weights: str) -> None:
    path = tiny.make("qwen3moe", tmp_path).gguf
    with pytest.raises(BadJob, match=f"names experts.*`base_weights` {weights} cannot train; use full"):
        check(spec_of(path, EXPERTS, base_weights=weights))


def spec_of(path: Path, targets: str | list[str], **changes: Any) -> JobSpec:
    return JobSpec(job_id="j", base=str(path), lora=LoraSettings(target_modules=targets), **changes)


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("wanted", ["auto", "all-linear"])
def test_every_linear_layer_but_the_head(tmp_path: Path, wanted: str) -> None:
    path = tiny.make("qwen2", tmp_path).gguf
    found = check(spec_of(path, wanted))
    assert found is not None
    assert sorted(found.modules) == sorted(ALL)


def test_by_name(tmp_path: Path) -> None:
    path = tiny.make("gpt2", tmp_path).gguf
    wanted = ["c_attn", "transformer.h.1.mlp.c_fc"]
    assert check(spec_of(path, wanted)) == Targets(wanted, [])


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is refused is refused from the header alone."""

    def read(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(load, "Tensors", read)


REFUSED = [
    ("qwen2", {"tie_word_embeddings": True}, ["lm_head"], r"'lm_head'.*ties its embedding"),
    ("qwen2", {"tie_word_embeddings": True}, ["q_proj", "embed_tokens"], r"embed_tokens.*ties its embedding"),
    (
        "llama",
        {},
        ["q_proj", "kv_proj"],
        r"'kv_proj', which this base has not. It has down_proj, .*v_proj",
    ),
    ("llama", {}, ["input_layernorm"], r"no linear layer but a LlamaRMSNorm"),
]


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(("family", "changes", "targets", "message"), REFUSED)
def test_refused_before_training(
    tmp_path: Path, family: str, changes: dict[str, Any], targets: list[str], message: str
) -> None:
    path = tiny.make(family, tmp_path, **changes).gguf
    with pytest.raises(BadJob, match=rf"^`lora.target_modules`.*{message}"):
        check(spec_of(path, targets))


def test_a_refused_job_says_so_and_reads_no_base(tmp_path: Path, no_weights: None) -> None:
    job = jobs.write_job(tmp_path, lora=LoraSettings(r=4, target_modules=["lm_head"]))
    with pytest.raises(BadJob, match="lm_head"):
        jobs.run_here(job)
