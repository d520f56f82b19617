"""What is decided for a GPU, and read from it, without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny
from tests.unit.trainer.test_packing import CPU, examples
from torch.utils._python_dispatch import TorchDispatchMode

from llamaleon_trainer.base.blocks.bits import table
from llamaleon_trainer.base.blocks.simple import IQ4_VALUES
from llamaleon_trainer.base.load import FUSED_MAMBA, load_base
from llamaleon_trainer.batches import collate
from llamaleon_trainer.device import choose_precision, held_bytes, is_out_of_memory
from llamaleon_trainer.job import JobSpec, LoraSettings
from llamaleon_trainer.lora import add_lora
from llamaleon_trainer.objectives import fetched
from llamaleon_trainer.scoring import Scorer

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "native", "expected"),
    [
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
        ("bfloat16", False, "bfloat16"),
        ("float32", True, "float32"),
    ],
)
def test_bfloat16_is_chosen_where_a_gpu_multiplies_it_itself(
    monkeypatch: pytest.MonkeyPatch, precision: str, native: bool, expected: str
) -> None:
    def supported(including_emulation: bool = True) -> bool:  # every GPU emulates it
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    chosen = choose_precision(JobSpec(job_id="j", base="b", precision=precision), CUDA)
    assert chosen.name == expected
    assert chosen.weights is (torch.bfloat16 if expected == "bfloat16" else torch.float32)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_known_by_all_its_names(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_what_a_gpu_holds_is_not_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 9)
    assert held_bytes(CUDA) == 5
    assert held_bytes(CPU) > 10 << 20


def test_sums_are_fetched_as_they_are() -> None:
    third, count = torch.tensor(1 / 3, requires_grad=True), torch.tensor(2**24 + 1)
    assert fetched(third, count) == [float(third.detach()), 2**24 + 1]


def test_constants_are_copied_to_a_device_once() -> None:
    """A copy waits for all that the device has to do: one for each piece of each matrix would be slow."""
    assert table(IQ4_VALUES, CPU) is table(IQ4_VALUES, CPU)


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def test_packed_experts_ask_a_device_once_a_layer(tmp_path: Path) -> None:
    """Places are found by sorting: `nonzero` would wait for the device, for each expert."""
    model = load_base(tiny.make("qwen3moe", tmp_path, file_type="Q4_0").gguf, CPU, torch.float32, "gguf")
    with _Calls() as calls, torch.no_grad():
        model(input_ids=torch.arange(3, 40)[None])
    assert calls.names.count("aten.bincount") == model.config.num_hidden_layers
    assert "aten.nonzero" not in calls.names


@pytest.mark.parametrize("weights", ["full", "gguf"])
def test_a_fused_kernel_does_not_pass_by_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    """What mamba_ssm would do on a GPU: take the output projection's weight itself while training."""
    from transformers.models.granitemoehybrid import modeling_granitemoehybrid

    def fused(states: torch.Tensor, *_: Any, outproj_weight: torch.Tensor, **__: Any) -> torch.Tensor:
        inner = states[..., : outproj_weight.shape[-1]]
        return torch.nn.functional.linear(inner, outproj_weight)

    monkeypatch.setattr(modeling_granitemoehybrid, FUSED_MAMBA, fused)
    path = tiny.make("granitehybrid", tmp_path, file_type="Q4_0").gguf
    model = load_base(path, CPU, torch.float32, weights)
    scorer = Scorer(model, CPU, autocast=False)
    wrapped = add_lora(model, JobSpec(job_id="j", base=str(path), lora=LoraSettings(r=4)))
    wrapped.train()
    torch.autograd.backward(scorer.predict(collate(examples(), CPU)).losses.sum())
    named: Sequence[tuple[str, Any]] = list(wrapped.named_parameters())
    projections = [parameter for name, parameter in named if "mamba.out_proj.lora_B" in name]
    assert projections
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in projections)
