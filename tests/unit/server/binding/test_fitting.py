"""What fits is arithmetic over measured memory; the memory of GPUs is faked at the boundary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.tiny import kinds
from tests.tiny.speed_model import Shape, speed_model
from tests.unit.server.binding.conftest import options_for

from llamaleon_convert.header import read_header
from llamaleon_server.binding import library, loading
from llamaleon_server.binding.errors import LoadError
from llamaleon_server.binding.fitting import (
    GPU_RESERVE_BYTES,
    Sizes,
    cache,
    gpu_layers,
    kv_token_bytes,
    layer_tries,
    sizes_of,
    state_bytes,
)
from llamaleon_server.binding.options import Split

GB = 10**9
MODEL = Sizes(layers=(GB,) * 10, output=2 * GB, embedding=GB)


class Device:
    """As `library.Device`, of a GPU that is not there."""

    def __init__(self, free_gb: float, name: str = "faked") -> None:
        self.handle, self.description = 0, name
        self.free_bytes = GPU_RESERVE_BYTES + int(free_gb * GB)
        self.total_bytes = self.free_bytes


@pytest.mark.parametrize(
    ("free_gb", "layers"),
    [
        ([100], 11),  # everything: ten layers and what follows
        ([1.9], 0),  # not even what follows
        ([2.0], 1),
        ([2.99], 1),
        ([3.0], 2),
        ([3.0, 3.0], 5),  # of two GPUs
        ([0.0, 2.5], 1),
    ],
)
def test_layers_that_fit(free_gb: list[float], layers: int) -> None:
    free = [Device(one).free_bytes for one in free_gb]
    assert gpu_layers(MODEL, 0, free) == layers


@pytest.mark.parametrize("granted_gb", [None, 5, 90])
def test_a_cache_on_a_gpu_keeps_to_what_the_server_grants(
    granted_gb: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would take what a training is about to need."""
    monkeypatch.setattr(library, "gpu_devices", lambda: [Device(6.0)])
    granted = None if granted_gb is None else granted_gb * GB
    options = replace(options_for(Path("m.gguf")), memory_bytes=granted)
    model: Any = SimpleNamespace(gpu_layers=3, bytes=2 * GB)
    spare = loading.free_bytes(model, options)
    assert spare == (3 * GB if granted_gb == 5 else Device(6.0).free_bytes)


def test_the_cache_goes_where_its_layer_goes() -> None:
    free = [Device(6.0).free_bytes]
    assert gpu_layers(MODEL, 0, free) == 5
    assert gpu_layers(MODEL, 10 * GB, free) == 3


def test_counts_to_try() -> None:
    assert layer_tries(11, 10) == [-1, 8, 5, 2, 0]
    assert layer_tries(6, 10) == [6, 4, 3, 1, 0]
    assert layer_tries(0, 10) == [0]


def test_the_layers_that_are_chosen_are_tried_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = speed_model(tmp_path / "m.gguf", Shape(hidden=64, layers=4, ffn=128, heads=2, vocabulary=512))
    sizes = sizes_of(read_header(path))
    assert len(sizes.layers) == 4
    assert (
        sizes.total == sum(tensor.nbytes for tensor in read_header(path).tensors.values()) + sizes.embedding
    )
    two_layers = (sizes.output + 2 * sizes.layers[0] + 3 * kv_bytes(path) // 4) / GB
    monkeypatch.setattr(library, "gpu_devices", lambda: [Device(two_layers)])
    options = replace(options_for(path), context_tokens=1024)
    tries, why = loading._layer_counts(options, library.gpu_devices())
    assert tries == [3, 2, 1, 0]
    assert why is not None
    assert why.startswith("3 of 5 layers fit into 1.1 GB")
    assert loading._layer_counts(replace(options, gpu_layers=2), library.gpu_devices()) == ([2], None)
    assert loading._layer_counts(options, []) == ([0], None)


def kv_bytes(path: Path) -> int:
    return 1024 * kv_token_bytes(read_header(path), "f32", "f32")


def free(gb: float, **more: Any) -> tuple[int, int]:
    """Context and cache of a model of a million bytes a token, trained for 100,000 tokens."""
    found = cache(train_tokens=100_000, token_bytes=10**6, free_bytes=int(gb * GB), running=32, **more)
    return found.context_tokens, found.kv_tokens


def test_the_context_is_what_a_quarter_of_the_free_memory_holds() -> None:
    assert free(40) == (10_000, 10_000)
    assert free(4) == (2048, 2048), "the least"
    assert free(400) == (32_768, 65_536), "the most, twice"
    assert free(200) == (32_768, 50_000)
    assert free(-1) == (2048, 2048)


def test_given_numbers_stand() -> None:
    assert free(40, context_tokens=500) == (500, 10_000)
    assert free(40, context_tokens=500, kv_tokens=700) == (500, 700)
    assert free(40, context_tokens=90_000) == (90_000, 90_000)
    assert free(40, least_tokens=12_000) == (12_000, 12_000)
    assert free(40, context_tokens=500, least_tokens=12_000) == (12_000, 12_000)
    assert free(40, least_tokens=10**9) == (40_000, 40_000), "all that is free"
    assert free(400, least_tokens=10**9) == (100_000, 100_000), "all that was trained"
    assert free(40, least_tokens=12) == (10_000, 10_000)
    small = cache(train_tokens=512, token_bytes=1, free_bytes=40 * GB, running=4)
    assert (small.context_tokens, small.kv_tokens) == (512, 2048)
    assert small.why == "40.0 GB are free, a quarter of it holds 10000000000 tokens"


def test_only_layers_with_attention_have_a_cache(tmp_path: Path) -> None:
    plain, hybrid = (
        read_header(kinds.mixture(tmp_path / "a.gguf")),
        read_header(kinds.jamba(tmp_path / "b.gguf")),
    )
    assert kv_token_bytes(plain, "f16", "f16") == 2 * kinds.LAYERS * kinds.WIDTH * 2
    assert kv_token_bytes(plain, "f32", "f16") == 3 * kinds.LAYERS * kinds.WIDTH * 2
    assert kv_token_bytes(hybrid, "f16", "f16") == 2 * kinds.WIDTH * 2
    assert state_bytes(plain) == 0
    assert state_bytes(hybrid) == 4 * kinds.INNER * (kinds.STATE + kinds.TAPS - 1)


def test_layers_that_differ_in_heads() -> None:
    """As those of OpenELM: the width of a head is that of the model over the most of them."""
    values = {
        "embedding_length": 1280,
        "block_count": 3,
        "attention.head_count": [12, 16, 20],
        "attention.head_count_kv": [3, 4, 5],
    }
    header: Any = SimpleNamespace(model_value=values.get)
    assert kv_token_bytes(header, "f16", "f16") == (3 + 4 + 5) * 2 * (1280 // 20) * 2


def test_which_gpus_share_a_model() -> None:
    devices: Any = [Device(1, "a"), Device(2, "b"), Device(3, "c")]
    assert [one.description for one in Split().used(devices)] == ["a", "b", "c"]
    assert [one.description for one in Split(mode="none", main_gpu=1).used(devices)] == ["b"]
    assert [one.description for one in Split(shares=(1.0, 0.0, 2.0)).used(devices)] == ["a", "c"]
    with pytest.raises(LoadError, match="main_gpu 3: there are 3 GPUs"):
        Split(mode="none", main_gpu=3).used(devices)


def test_the_split_reaches_llama_cpp() -> None:
    import llama_cpp.llama_cpp as native

    params = native.llama_model_default_params()
    kept = Split(mode="row", shares=(3.0, 1.0), main_gpu=1).apply(params)
    assert (params.split_mode, params.main_gpu) == (native.LLAMA_SPLIT_MODE_ROW, 1)
    assert params.tensor_split[:2] == [3.0, 1.0]
    assert kept is not None
    too_many = tuple([1.0] * (native.llama_max_devices() + 1))
    with pytest.raises(LoadError, match=r"llama\.cpp knows"):
        Split(shares=too_many).apply(params)
