"""The fused layers give peft's and autocast's own numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny.families import random_model

from llamaleon_trainer.fused import _Narrowed, fused
from llamaleon_trainer.job import JobSpec, LoraSettings
from llamaleon_trainer.lora import add_lora

TOKENS = torch.tensor([[(7 * place + 31 * row) % 250 + 3 for place in range(12)] for row in range(3)])


def model_with_lora(family: str, **settings: Any) -> Any:
    model = random_model(family).requires_grad_(False)
    wrapped = add_lora(model, JobSpec(job_id="a", base="b", lora=LoraSettings(r=4, **settings)))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    return wrapped


def computed(wrapped: Any, *, narrow: bool) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        logits = wrapped(input_ids=TOKENS).logits.float()
    weights = [weight for weight in wrapped.parameters() if weight.requires_grad]
    return logits.detach(), torch.autograd.grad(logits.square().mean(), weights)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gpt2", "gemma2"])
def test_fused_lora_is_pefts(family: str, rslora: bool) -> None:
    wrapped = model_with_lora(family, use_rslora=rslora)
    logits, gradients = computed(wrapped, narrow=False)
    with wrapped.disable_adapter():
        base = wrapped(input_ids=TOKENS).logits
    with fused(wrapped, narrow=False):
        found = computed(wrapped, narrow=False)
        with wrapped.disable_adapter():
            torch.testing.assert_close(wrapped(input_ids=TOKENS).logits, base)
    torch.testing.assert_close(found, (logits, gradients), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits, base)
    again = computed(wrapped, narrow=False)
    torch.testing.assert_close(again, (logits, gradients), rtol=0, atol=0)


def test_dropout_stays_pefts() -> None:
    """Which tokens it drops is drawn in peft's layer: the fused one has none, and must not replace it."""
    wrapped = model_with_lora("llama", lora_dropout=0.5).train()
    torch.manual_seed(3)
    wanted = wrapped(input_ids=TOKENS).logits
    with fused(wrapped, narrow=False):
        torch.manual_seed(3)
        torch.testing.assert_close(wrapped(input_ids=TOKENS).logits, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_narrow_weights_are_autocasts(family: str) -> None:
    """No further from float32 than autocast's own numbers are."""
    wrapped = model_with_lora(family)
    exact, exact_gradients = computed(wrapped, narrow=False)
    theirs, their_gradients = computed(wrapped, narrow=True)
    with fused(wrapped, narrow=True):
        ours, our_gradients = computed(wrapped, narrow=True)
    assert 0 < float((ours - exact).norm()) < 1.2 * float((theirs - exact).norm())
    flat = [torch.cat([gradient.flatten() for gradient in side]) for side in (our_gradients, their_gradients)]
    wanted = torch.cat([gradient.flatten() for gradient in exact_gradients])
    assert float((flat[0] - wanted).norm()) < 1.2 * float((flat[1] - wanted).norm())
    assert torch.equal(computed(wrapped, narrow=False)[0], exact)


def test_a_shared_input_is_narrowed_once_and_a_changed_one_again() -> None:
    narrowed = _Narrowed()
    x = torch.ones(3)
    first = narrowed(x)
    assert narrowed(x) is first
    x.add_(1)
    assert torch.equal(narrowed(x), torch.full((3,), 2.0, dtype=torch.bfloat16))
    with_gradient = x.clone().requires_grad_()
    with torch.no_grad():
        assert not narrowed(with_gradient).requires_grad
    assert narrowed(with_gradient).requires_grad
