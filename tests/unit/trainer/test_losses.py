"""Cross-entropy over the head, chunk by chunk: torch's own numbers, without the logits in memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tests.tiny.families import random_model
from torch import nn
from torch.nn import functional

from llamaleon_trainer import memory
from llamaleon_trainer.batches import collate
from llamaleon_trainer.items import Example
from llamaleon_trainer.losses import Head, token_losses
from llamaleon_trainer.scoring import Scorer

CPU = torch.device("cpu")
HEADS = {
    "plain": Head(nn.Linear(16, 50, bias=False)),
    "with a bias": Head(nn.Linear(16, 50)),
    "Granite": Head(nn.Linear(16, 50, bias=False), scaling=4.0),
    "Gemma": Head(nn.Linear(16, 50, bias=False), cap=3.0),
    "both": Head(nn.Linear(16, 50, bias=False), scaling=2.0, cap=3.0),
}


def reference(head: Head, hidden: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    logits = head.module(hidden) / (head.scaling or 1.0)
    if head.cap:
        logits = head.cap * torch.tanh(logits / head.cap)
    return functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(memory.CHUNK_ELEMENTS, "cpu", 50 * 7)  # seven tokens: chunks and a rest


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("trained_head", [False, True])
@pytest.mark.parametrize("kind", HEADS)
def test_losses_and_gradients_are_torchs(kind: str, trained_head: bool, smoothing: float) -> None:
    head = HEADS[kind]
    head.module.requires_grad_(trained_head)
    generator = torch.Generator().manual_seed(0)
    hidden = (3 * torch.randn(24, 16, generator=generator)).requires_grad_()
    targets = torch.randint(50, (24,), generator=generator)
    by_loss = torch.rand(24, generator=generator)  # a factor for each token, as weights and DPO have it
    inputs = [hidden, *(head.module.parameters() if trained_head else [])]
    found = token_losses(head, hidden, targets, smoothing=smoothing)
    wanted = reference(head, hidden, targets, smoothing)
    torch.testing.assert_close(found.losses, wanted)
    torch.testing.assert_close(found.nll, reference(head, hidden, targets, 0.0))
    best = head.module(hidden).argmax(-1)
    assert torch.equal(found.hits, best == targets)
    gradients = torch.autograd.grad((found.losses * by_loss).sum(), inputs)
    expected = torch.autograd.grad((wanted * by_loss).sum(), inputs)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)


def test_without_gradients_none_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.autograd, "grad", None)
    head = HEADS["plain"]
    head.module.requires_grad_(False)
    with torch.no_grad():
        found = token_losses(head, torch.randn(9, 16), torch.arange(9))
    assert found.losses.shape == (9,)


@pytest.mark.parametrize("family", ["gemma2", "granite", "llama"])
def test_a_familys_own_logits_give_the_same_losses(family: str) -> None:
    """Soft caps and scalings, against transformers' own forward pass."""
    model = random_model(family).requires_grad_(False)
    tokens = [(7 * place) % 250 + 3 for place in range(21)]
    example = Example(tokens[:-1], list(range(20)), tokens[1:], [1.0] * 20)
    found = Scorer(model, CPU, autocast=False).predict(collate([example], CPU)).nll[:20]
    logits = model(input_ids=torch.tensor([tokens[:-1]])).logits[0]
    wanted = functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# Logits of 1,024 tokens over a vocabulary of 150,000, with their gradient: 1.2 GB.
MEASURED = """
import sys, torch
from torch import nn
from llamaleon_trainer.losses import Head, token_losses
def peak():  # of this program alone: getrusage begins with what its parent had
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
torch.set_num_threads(1)
module = nn.Linear(32, 150_000, bias=False).requires_grad_(False)
hidden = torch.randn(1024, 32, requires_grad=True)
targets = torch.randint(150_000, (1024,))
token_losses(Head(module), hidden[:8], targets[:8]).losses.sum().backward()  # what is loaded once
before = peak()
if sys.argv[1] == "chunked":
    token_losses(Head(module), hidden, targets).losses.sum().backward()
else:
    nn.functional.cross_entropy(module(hidden), targets).backward()
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_logits_of_a_large_vocabulary_never_exist_whole() -> None:
    def grown(how: str) -> int:
        command = [sys.executable, "-c", MEASURED, how]
        return 1024 * int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    logits = 1024 * 150_000 * 4
    assert grown("whole") > 1.5 * logits
    assert grown("chunked") < 0.2 * logits
