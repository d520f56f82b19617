"""Training on the packed blocks of the GGUF is training on its dequantised weights, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from tests.data import NANO

from llamaleon_convert.header import read_header
from llamaleon_trainer import losses, memory
from llamaleon_trainer.base import packed
from llamaleon_trainer.base.choice import full_bytes, packed_bytes, resolve
from llamaleon_trainer.base.load import load_base
from llamaleon_trainer.base.packed import PackedEmbedding, PackedLinear, rows_of
from llamaleon_trainer.errors import BadJob
from llamaleon_trainer.job import JobSpec, LoraSettings
from llamaleon_trainer.lora import add_lora

CPU = torch.device("cpu")
IDS = torch.tensor([[(7 * n) % 250 + 3 for n in range(24)]])
WIDE: dict[str, dict[str, Any]] = {"gpt2": {"n_embd": 256}}
BLOCKS_OF_256 = {"hidden_size": 256, "intermediate_size": 512}


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[Any, Path] = {}

    def get(family: str, file_type: str = "Q4_K_M", **changes: Any) -> Path:
        key = (family, file_type, tuple(changes.items()))
        if key not in made:
            shape = WIDE.get(family, BLOCKS_OF_256) | changes
            made[key] = tiny.make(family, tmp_path_factory.mktemp("m"), file_type=file_type, **shape).gguf
        return made[key]

    return get


def gradients(
    path: Path, weights: str, dtype: torch.dtype = torch.float32, *, recompute: bool = False, **lora: Any
) -> Any:
    """(logits, gradients of the LoRA weights by name) of one training pass."""
    model = load_base(path, CPU, dtype, weights)
    spec = JobSpec(job_id="j", base=str(path), lora=LoraSettings(r=4, **lora))
    wrapped = add_lora(model, spec)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:  # A too: peft rounds its first values to the type of the base
            parameter.data.normal_(std=0.05)
    if recompute:
        model.activation_checkpointing_enable()
    logits = wrapped.train()(input_ids=IDS).logits
    loss: Any = torch.nn.functional.cross_entropy(logits[0, :-1].float(), IDS[0, 1:])
    loss.backward()
    return logits.detach(), {name: p.grad for name, p in wrapped.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_and_gradients_are_bit_identical(model_of: Callable[..., Path], family: str) -> None:
    path = model_of(family)
    (full, full_gradients), (ours, our_gradients) = gradients(path, "full"), gradients(path, "gguf")
    assert torch.equal(full, ours)
    assert full_gradients.keys() == our_gradients.keys()
    assert len(our_gradients) > 0
    assert all(torch.equal(full_gradients[name], our_gradients[name]) for name in our_gradients)


@pytest.mark.parametrize("family", [*tiny.MORE_FAMILIES, *tiny.MIXED_FAMILIES])
def test_experts_and_layers_of_two_kinds(tmp_path: Path, family: str) -> None:
    """At most float rounding apart: tokens of an expert are added up in another order."""
    path = tiny.make(family, tmp_path, file_type="Q4_0").gguf
    (full, full_gradients), (ours, our_gradients) = gradients(path, "full"), gradients(path, "gguf")
    torch.testing.assert_close(full, ours, rtol=1e-5, atol=1e-5)
    assert full_gradients.keys() == our_gradients.keys()
    for name, gradient in full_gradients.items():
        torch.testing.assert_close(gradient, our_gradients[name], rtol=1e-4, atol=1e-5)
    parameters = list(load_base(path, CPU, torch.float32, "gguf").parameters())
    unpacked = sum(parameter.numel() for parameter in parameters if parameter.is_floating_point())
    assert unpacked < 0.05 * full_bytes(read_header(path), 1)  # norms, routers, convolutions


@pytest.mark.parametrize("file_type", ["Q2_K", "Q3_K_M", "Q5_1", "Q8_0", "IQ4_XS", "IQ3_S", "F16", "F32"])
def test_file_types(model_of: Callable[..., Path], file_type: str) -> None:
    path = model_of("llama", file_type, tie_word_embeddings=True)
    (full, full_gradients), (ours, our_gradients) = gradients(path, "full"), gradients(path, "gguf")
    assert torch.equal(full, ours)
    assert all(torch.equal(full_gradients[name], our_gradients[name]) for name in our_gradients)


def test_bfloat16_and_autocast(model_of: Callable[..., Path]) -> None:
    path = model_of("qwen2")
    assert torch.equal(gradients(path, "full", torch.bfloat16)[0], gradients(path, "gguf", torch.bfloat16)[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gradients(path, "full")[0], gradients(path, "gguf")[0])


def test_recomputed_activations(model_of: Callable[..., Path]) -> None:
    plain, again = (gradients(model_of("llama"), "gguf", recompute=recompute) for recompute in (False, True))
    assert torch.equal(plain[0], again[0])
    assert all(torch.equal(plain[1][name], again[1][name]) for name in plain[1])


def test_no_dequantised_weight_is_kept(model_of: Callable[..., Path]) -> None:
    """What autograd saves for the backward pass, beside the bytes of the file, is activations."""
    model = load_base(model_of("llama"), CPU, torch.float32, "gguf")
    wide = {tuple(m.weight.shape) for m in load_base(model_of("llama"), CPU, torch.float32).modules()
            if isinstance(m, torch.nn.Linear)}  # fmt: skip
    saved: list[torch.Tensor] = []
    embedded = model.get_input_embeddings()(IDS).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]  # append's None
        model(inputs_embeds=embedded)
    assert any(tensor.dtype is torch.uint8 for tensor in saved)
    assert not [
        t.shape for t in saved if t.is_floating_point() and {tuple(t.shape), tuple(t.shape[::-1])} & wide
    ]


def test_weights_are_the_file_itself_and_small(model_of: Callable[..., Path]) -> None:
    path = model_of("qwen2")
    model = load_base(path, CPU, torch.float32, "gguf")
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    header = read_header(path)
    assert held < 1.02 * packed_bytes(header)
    assert held < 0.25 * full_bytes(header, 4)
    layer = model.model.layers[0].mlp.up_proj
    info = header.tensors["blk.0.ffn_up.weight"]
    assert isinstance(layer, PackedLinear)
    raw = path.read_bytes()[info.offset : info.offset + info.nbytes]
    assert layer.weight.numpy().tobytes() == raw


def test_a_wide_head_is_multiplied_in_slices(
    model_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_of("qwen2")
    whole = gradients(path, "gguf", target_modules=["q_proj", "lm_head"])
    monkeypatch.setattr(packed, "SLICE_ELEMENTS", 100 * 256)
    sliced = gradients(path, "gguf", target_modules=["q_proj", "lm_head"])
    torch.testing.assert_close(whole[0], sliced[0], rtol=1e-5, atol=1e-5)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(gradient, sliced[1][name], rtol=1e-4, atol=1e-5)


def test_rows_of_a_head_packed_or_not(model_of: Callable[..., Path]) -> None:
    full = load_base(model_of("qwen2"), CPU, torch.float32).lm_head
    ours = load_base(model_of("qwen2"), CPU, torch.float32, "gguf").lm_head
    assert torch.equal(rows_of(ours, 30, 50, torch.float32), full.weight[30:50])
    assert torch.equal(rows_of(full, 30, 50, torch.float32), full.weight[30:50])


def test_a_packed_head_is_not_undone_for_a_few_tokens(
    model_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(memory.CHUNK_ELEMENTS, "cpu", 3 * tiny.vocabulary.SIZE)
    rows = [
        losses.Head(load_base(model_of("qwen2"), CPU, torch.float32, weights).lm_head).chunk_rows(
            torch.empty(1000, 256)
        )
        for weights in ("full", "gguf")
    ]
    assert rows == [3, memory.PACKED_CHUNK_ROWS]
    spec = JobSpec(job_id="j", base=str(model_of("qwen2")), lora=LoraSettings(target_modules=["lm_head"]))
    wrapped = add_lora(load_base(model_of("qwen2"), CPU, torch.float32, "gguf"), spec)
    head = losses.Head(wrapped.get_base_model().get_output_embeddings())
    assert head.chunk_rows(torch.empty(1000, 256)) == memory.PACKED_CHUNK_ROWS


def test_tied_embeddings_share_their_bytes(model_of: Callable[..., Path]) -> None:
    model = load_base(model_of("qwen2", tie_word_embeddings=True), CPU, torch.float32, "gguf")
    assert isinstance(model.get_input_embeddings(), PackedEmbedding)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_a_lora_on_a_packed_embedding(model_of: Callable[..., Path]) -> None:
    targets: Any = {"target_modules": ["embed_tokens", "v_proj"]}
    full, ours = (gradients(model_of("qwen2"), weights, **targets) for weights in ("full", "gguf"))
    assert torch.equal(full[0], ours[0])
    assert any("lora_embedding_A" in name for name in ours[1])


def test_nano_as_it_is_served() -> None:
    full, ours = (load_base(NANO, CPU, torch.float32, weights) for weights in ("full", "gguf"))
    assert torch.equal(full(input_ids=IDS).logits, ours(input_ids=IDS).logits)


def test_auto_takes_full_precision_where_it_fits(model_of: Callable[..., Path]) -> None:
    header = read_header(model_of("qwen2"))
    size = full_bytes(header, 2)
    assert resolve("auto", header, free_bytes=2 * size, weight_bytes=2) == "full"
    assert resolve("auto", header, free_bytes=2 * size - 2, weight_bytes=2) == "gguf"
    assert [resolve(name, header, 0, 2) for name in ("full", "nf4", "gguf")] == ["full", "nf4", "gguf"]
    assert load_base(header.path, CPU, torch.float32, "auto").base_weights == "full"


def test_a_directory_has_no_blocks(tmp_path: Path) -> None:
    with pytest.raises(BadJob, match="`base_weights` is gguf, but `base` is a Hugging Face directory"):
        load_base(tiny.make("llama", tmp_path).hf_dir, CPU, torch.float32, "gguf")
