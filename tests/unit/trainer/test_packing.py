"""Rows packed into one sequence are computed as if each were alone, on every kind of attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny.families import random_model

from llamaleon_trainer.batches import collate, pieces
from llamaleon_trainer.items import Example, token_count
from llamaleon_trainer.packing import packed_attention, packs
from llamaleon_trainer.scoring import Scorer

CPU = torch.device("cpu")
LENGTHS = (23, 5, 40, 1, 17)
ATTENTION: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in ("llama", "qwen2", "qwen3", "phi3", "gpt2", "granite", "gemma", "olmo2")),
    *((family, {}) for family in ("stablelm", "starcoder2", "smollm3", "granitemoe", "mixtral", "qwen3moe")),
    ("mistral", {"sliding_window": 8}),
    ("gemma2", {"sliding_window": 8}),
    ("gemma3", {"sliding_window": 8, "num_hidden_layers": 7}),
    ("gpt-oss", {"sliding_window": 8}),
]


def examples() -> list[Example]:
    """Rows of `LENGTHS` tokens, every second prediction of each counting, with different weights."""
    made = []
    for number, length in enumerate(LENGTHS):
        tokens = [(7 * place + 31 * number) % 250 + 3 for place in range(length + 1)]
        positions = list(range(0, length, 2))
        targets = [tokens[position + 1] for position in positions]
        made.append(Example(tokens[:-1], positions, targets, [1.0 + number] * len(positions)))
    return made


def trainable(model: Any) -> list[torch.nn.Parameter]:
    """Everything but embedding and head, as LoRA layers would be."""
    outside = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in outside)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def losses_and_gradients(scorer: Scorer, rows: list[Example], *, packed: bool) -> tuple[Any, list[Any]]:
    batch = collate(rows, CPU, packed=packed)
    losses = scorer.predict(batch).losses * batch.weights
    parameters = trainable(scorer.model)
    gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    return losses[batch.weights > 0], [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize(("family", "changes"), ATTENTION, ids=lambda value: str(value)[:40])
def test_packed_rows_have_the_losses_and_gradients_of_padded_ones(
    family: str, changes: dict[str, Any]
) -> None:
    model = random_model(family, **changes)
    trainable(model)
    scorer = Scorer(model, CPU, autocast=False)
    padded, expected = losses_and_gradients(scorer, examples(), packed=False)
    with packed_attention(model):
        packed, gradients = losses_and_gradients(scorer, examples(), packed=True)
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)
    assert len(gradients) == len(expected) > 0
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_a_mask_never_meets_groups_of_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA has a fused attention for either; for both it would keep all scores of all heads."""
    seen: list[tuple[bool, bool]] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(query: Any, key: Any, value: Any, *, attn_mask: Any, **options: Any) -> Any:
        seen.append((attn_mask is not None, query.shape[1] != key.shape[1]))
        return attention(query, key, value, attn_mask=attn_mask, **options)

    model = random_model("mistral", sliding_window=8)
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    with packed_attention(model), torch.no_grad():
        Scorer(model, CPU, autocast=False).predict(collate(examples(), CPU, packed=True))
    assert set(seen) == {(True, False), (False, True)}


def test_a_row_never_sees_its_neighbour() -> None:
    """Change every token of the first row: the second one's losses must not move by a bit."""
    model = random_model("llama")
    scorer = Scorer(model, CPU, autocast=False)
    first, second = examples()[0], examples()[2]
    other = Example([3] * len(first.tokens), first.positions, first.targets, first.weights)
    found = []
    with packed_attention(model), torch.no_grad():
        for neighbour in (first, other):
            batch = collate([neighbour, second], CPU, packed=True)
            found.append(scorer.predict(batch).losses[batch.owners == 1][: len(second.targets)])
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("family", "changes"), ATTENTION[:1] + ATTENTION[-3:], ids=lambda value: str(value)[:40]
)
def test_a_base_that_packs_is_known(family: str, changes: dict[str, Any]) -> None:
    assert packs(random_model(family, **changes), [example.tokens for example in examples()])


@pytest.mark.parametrize("family", ["lfm2", "granitehybrid", "qwen35"])
def test_a_base_with_a_state_does_not_pack(family: str) -> None:
    assert not packs(random_model(family), [example.tokens for example in examples()])


def test_a_pass_is_filled_by_tokens() -> None:
    rows = examples()

    def cut(budget: int, *, packed: bool, most: int = 9) -> list[list[int]]:
        found = pieces(rows, budget, most=most, packed=packed)
        return [[token_count(row) for row in piece] for piece in found]

    assert cut(45, packed=True) == [[23, 5], [40, 1], [17]]
    assert cut(80, packed=False) == [[23, 5], [40, 1], [17]]
    assert cut(79, packed=False) == [[23, 5], [40], [1, 17]]
    assert cut(1, packed=False) == [[23], [5], [40], [1], [17]]
    assert cut(10**6, packed=True, most=2) == [[23, 5], [40, 1], [17]]
    assert cut(10**6, packed=True) == [list(LENGTHS)]


def test_layouts() -> None:
    rows = examples()[:2]
    padded, packed = (collate(rows, CPU, packed=packed) for packed in (False, True))
    assert (tuple(padded.tokens.shape), tuple(packed.tokens.shape)) == ((2, 32), (1, 32))
    assert (padded.lengths, packed.lengths) == ([23, 5], [23, 5, 4])
    for batch in (padded, packed):
        counted = batch.weights > 0
        assert batch.owners[counted].tolist() == [0] * 12 + [1] * 3
        read = batch.tokens.view(-1)[batch.picks[counted]]
        assert read.tolist() == [row.tokens[place] for row in rows for place in row.positions]
