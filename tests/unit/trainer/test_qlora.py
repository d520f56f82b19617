"""QLoRA the usual way: linear layers in NF4, from a GGUF or from a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.tiny.reference import mean_kl

from llamaleon_trainer.base.load import base_kl_limit, load_base
from llamaleon_trainer.job import JobSpec, LoraSettings
from llamaleon_trainer.lora import add_lora

CPU = torch.device("cpu")
IDS = torch.tensor([[(7 * n) % 250 + 3 for n in range(40)]])


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("source", ["gguf", "hf_dir"])
def test_near_the_base_but_not_it(tmp_path: Path, family: str, source: str) -> None:
    path = getattr(tiny.make(family, tmp_path), source)
    full, nf4 = (load_base(path, CPU, torch.float32, weights) for weights in ("full", "nf4"))
    with torch.no_grad():
        kl = mean_kl(*(model(input_ids=IDS).logits[0].numpy() for model in (full, nf4)))
    assert 1e-4 < kl < 0.2
    sizes = [sum(p.numel() * p.element_size() for p in model.parameters()) for model in (full, nf4)]
    assert sizes[1] < 0.6 * sizes[0]  # of which the embedding stays as it was
    spec = JobSpec(job_id="j", base=str(path), max_base_kl=0.02)
    assert base_kl_limit(spec, full) == 0.02
    assert base_kl_limit(spec, nf4) == (0.02 if source == "gguf" else 0.2)


def test_an_adapter_learns_on_it(tmp_path: Path) -> None:
    path = tiny.make("qwen2", tmp_path).gguf
    wrapped = add_lora(
        load_base(path, CPU, torch.float32, "nf4"),
        JobSpec(job_id="j", base=str(path), lora=LoraSettings(r=8)),
    )
    parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(15):
        wrapped.eval()  # as a held-out evaluation does in between
        with torch.no_grad():
            wrapped(input_ids=IDS)
        wrapped.train()
        loss = wrapped(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
