"""Arithmetic on adapters: against the definitions, against PEFT's own functions, and as llama.cpp serves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from peft.utils import merge_utils
from tests import tiny
from tests.lora import EXPERTS, LINEARS, random_lora
from tests.tiny import plain, reference
from tests.tiny.adapters import make_adapter
from tests.unit.convert.test_numeric import MAX_KL, TOKENS

from llamaleon_convert import ConvertError, Refused, check_lora, combine, convert
from llamaleon_convert.factors import opened
from llamaleon_convert.header import read_header
from llamaleon_convert.lowrank import of_matrix, of_product

Array = npt.NDArray[np.float64]
Q, DOWN = "blk.0.attn_q.weight", "blk.0.ffn_down.weight"


def change(path: Path, base: Path, tensor: str) -> Array:
    """What the adapter adds to a weight, (n_out, n_in); zero where it leaves it alone."""
    header = read_header(base)
    with opened(path, header) as factors:
        if tensor not in factors:
            return np.zeros(header.tensors[tensor].shape[::-1])
        a, b = factors.read(tensor)
        return np.asarray(b.astype(np.float64) @ a.astype(np.float64))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return plain.write_base(tmp_path / "base.gguf", tied=False)


@pytest.fixture
def pair(base: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Of different ranks, strengths and targets; the second is half as strong."""
    one = random_lora(base, tmp_path / "one.gguf", seed=1, rank=4, targets=[*LINEARS, "output", "token_embd"])
    two = random_lora(base, tmp_path / "two.gguf", seed=2, rank=2, scale=0.5, targets=["attn_q", "ffn_up"])
    return one, two


def targets(base: Path, *paths: Path) -> Iterator[tuple[str, list[Array]]]:
    names = {tensor for path in paths for tensor in check_lora(path, read_header(base)).target_tensors}
    for name in sorted(names):
        yield name, [change(path, base, name) for path in paths]


def test_linear_is_exact_without_a_rank(base: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = combine(base, [(pair[0], 0.7), (pair[1], -1.5)], tmp_path / "out.gguf")
    assert (done.rank, done.error) == (6, 0.0)
    assert set(done.errors.values()) == {0.0}
    for name, (first, second) in targets(base, *pair):
        expected = 0.7 * first - 1.5 * second
        np.testing.assert_allclose(
            change(tmp_path / "out.gguf", base, name), expected, atol=1e-5, err_msg=name
        )
    assert {Q, DOWN, "output.weight", "token_embd.weight"} <= set(done.errors)


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_the_error_stated_is_the_error(
    rank: int, base: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """And no smaller one exists at that rank: Eckart and Young."""
    done = combine(base, [(pair[0], 1.0), (pair[1], 1.0)], tmp_path / "out.gguf", rank=rank)
    lost = whole = 0.0
    for name, changes in targets(base, *pair):
        expected = sum(changes)
        actual = change(tmp_path / "out.gguf", base, name)
        assert np.linalg.matrix_rank(actual, tol=1e-4) <= rank
        error = float(np.linalg.norm(actual - expected))
        best = float(np.sqrt((np.linalg.svd(expected, compute_uv=False)[rank:] ** 2).sum()))
        assert error == pytest.approx(best, abs=1e-4)
        assert done.errors[name] == pytest.approx(error / np.linalg.norm(expected), abs=1e-5)
        lost, whole = lost + error**2, whole + float(np.linalg.norm(expected)) ** 2
    assert done.error == pytest.approx((lost / whole) ** 0.5, abs=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.8, 1.0])
def test_slerp(t: float, base: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = combine(base, [(pair[0], 1 - t), (pair[1], t)], tmp_path / "out.gguf", method="slerp")
    assert done.error == 0.0
    for name, (first, second) in targets(base, *pair):
        lengths = np.linalg.norm(first), np.linalg.norm(second)
        cosine = float((first * second).sum() / (lengths[0] * lengths[1])) if all(lengths) else 0.0
        angle = np.arccos(cosine)
        expected = (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)
        np.testing.assert_allclose(change(tmp_path / "out.gguf", base, name), expected, atol=1e-5)


def test_slerp_of_one_with_itself_is_a_line(base: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    combine(base, [(pair[0], 0.4), (pair[0], 0.6)], tmp_path / "out.gguf", method="slerp")
    np.testing.assert_allclose(change(tmp_path / "out.gguf", base, Q), change(pair[0], base, Q), atol=1e-5)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_is_pefts(density: float, base: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    weights = [1.0, 0.6]
    combine(
        base,
        list(zip(pair, weights, strict=True)),
        tmp_path / "o.gguf",
        method="ties",
        rank=32,
        density=density,
    )
    for name, changes in targets(base, *pair):
        if not all(one.any() for one in changes):
            continue  # PEFT wants every adapter on every module
        expected = _pefts(merge_utils.ties, changes, weights, density)
        np.testing.assert_allclose(change(tmp_path / "o.gguf", base, name), expected, atol=2e-5, err_msg=name)


def _pefts(method: Callable[..., Any], changes: list[Array], weights: list[float], density: float) -> Array:
    tensors = [torch.tensor(one, dtype=torch.float32) for one in changes]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density 1.0 is greater than or equal to 1")
        return np.asarray(method(tensors, torch.tensor(weights), density).numpy(), np.float64)


@pytest.mark.parametrize("method", ["dare", "dare_ties"])
def test_dare_keeps_the_mean(method: str, base: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Entries are dropped or scaled up by 1 / density; over many seeds nothing is gained or lost."""
    first = change(pair[0], base, DOWN)
    total = np.zeros_like(first)
    for seed in range(30):
        adapters = [(pair[0], 0.5)] if method == "dare_ties" else [(pair[0], 0.5), (pair[1], 2.0)]
        combine(base, adapters, tmp_path / "o.gguf", method=method, rank=16, density=0.5, seed=seed)
        one = change(tmp_path / "o.gguf", base, DOWN)
        dropped = np.abs(one) < 1e-5
        np.testing.assert_allclose(one[~dropped], first[~dropped], atol=1e-4)  # 0.5 / density
        assert 0.4 < dropped.mean() < 0.6
        total += one
    np.testing.assert_allclose(total / 30, first / 2, atol=5 * np.abs(first).max() / 30**0.5)
    assert np.linalg.norm(total / 30 - first / 2) < 0.3 * np.linalg.norm(first)


def test_the_same_seed_gives_the_same_bytes(base: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    def made(seed: int) -> bytes:
        combine(base, [(pair[0], 1.0), (pair[1], 1.0)], tmp_path / "o.gguf", method="dare_ties", seed=seed)
        return (tmp_path / "o.gguf").read_bytes()

    assert made(3) == made(3)
    assert made(3) != made(4)


@pytest.mark.parametrize(
    ("family", "method"), [("mixtral", "linear"), ("gpt-oss", "slerp"), ("qwen35", "linear")]
)
def test_served(family: str, method: str, tmp_path: Path) -> None:
    """llama.cpp with the combination computes what it computes with both, also of experts."""
    base = tiny.make(family, tmp_path)
    one = random_lora(base.gguf, tmp_path / "one.gguf", seed=1, targets=[*LINEARS, *EXPERTS])
    two = make_adapter(base, tmp_path / "peft", r=3)
    combine(base.gguf, [(one, 0.6), (two.directory, 0.4)], tmp_path / "out.gguf", method=method)
    convert(two.directory, base.gguf, tmp_path / "two.gguf")
    check_lora(tmp_path / "out.gguf", read_header(base.gguf))
    with reference.open_model(base.gguf) as model:
        both = model.logits(TOKENS, [(one, 0.6), (tmp_path / "two.gguf", 0.4)])
        ours = model.logits(TOKENS, [(tmp_path / "out.gguf", 1.0)])
        assert reference.mean_kl(both, model.logits(TOKENS)) > 1e-3
    if method == "linear":
        assert reference.mean_kl(both, ours) <= MAX_KL
    else:  # the arc is longer than the line, not another direction
        assert (
            1e-6
            < reference.mean_kl(both, ours)
            < reference.mean_kl(both, reference.llama_logits(base.gguf, TOKENS))
        )


@pytest.mark.parametrize(
    ("adapters", "settings", "message"),
    [
        (2, {"method": "sum"}, "'sum': known are linear, slerp, ties, dare, dare_ties"),
        (3, {"method": "slerp"}, "between two adapters; 3 were given"),
        (2, {"method": "slerp"}, "shares, 1 - t and t"),
        (2, {"method": "ties", "density": 0.0}, "density is 0.0"),
        (2, {"density": 1.5}, "density is 1.5"),
        (2, {"rank": 0}, "rank is 0"),
        (2, {"method": "dare", "seed": -1}, "seed is -1"),
        (0, {}, "each must be a number"),
    ],
)
def test_settings_without_meaning(
    adapters: int, settings: dict[str, Any], message: str, *, base: Path, pair: tuple[Path, Path]
) -> None:
    given = [(pair[0], 1.0), (pair[1], 1.0), (pair[0], 1.0)][:adapters]
    with pytest.raises(ConvertError, match=message):
        combine(base, given, base.with_name("out.gguf"), **settings)
    assert not base.with_name("out.gguf").exists()


@pytest.mark.parametrize("method", ["linear", "ties", "dare"])
def test_weights_beyond_all_numbers_are_refused(
    method: str, base: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=r"tensor 'blk.0.attn_q.weight': the change holds NaN or infinite"):
        combine(base, [(pair[1], 3.4e38), (pair[1], 3.4e38)], tmp_path / "out.gguf", method=method)
    assert not list(tmp_path.glob("*out.gguf*"))


def test_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    other = plain.write_base(tmp_path / "other.gguf", seed=1)
    convert(plain.write_peft(tmp_path / "peft"), other, tmp_path / "foreign.gguf")
    with pytest.raises(Refused, match="another base"):
        combine(base, [(tmp_path / "foreign.gguf", 1.0)], tmp_path / "out.gguf")


class _Wide:
    """A matrix too large for an exact SVD here, of known singular values."""

    shape = (1500, 1200)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        u, v = (np.linalg.qr(rng.standard_normal((size, 60)))[0] for size in self.shape)
        self.singular = 2.0 ** -np.arange(60)
        self._values: npt.NDArray[np.float32] = (u * self.singular @ v.T).astype(np.float32)

    def rows(self, begin: int, end: int) -> npt.NDArray[np.float32]:
        return self._values[begin:end]


@pytest.mark.parametrize("in_memory", [True, False])
def test_randomised_svd(in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one percent of the best, and the error it states is its own."""
    if not in_memory:
        monkeypatch.setattr("llamaleon_convert.lowrank.CACHE_BYTES", 0)
        monkeypatch.setattr("llamaleon_convert.tensors.CHUNK_BYTES", 1 << 20)
    matrix = _Wide()
    found = of_matrix(matrix, 8, seed=0)
    best = float(np.sqrt((matrix.singular[8:] ** 2).sum() / (matrix.singular**2).sum()))
    actual = np.linalg.norm(matrix.rows(0, 1500) - found.b.astype(np.float64) @ found.a)
    assert found.error == pytest.approx(best, rel=0.01)
    assert found.error == pytest.approx(float(actual / np.sqrt((matrix.singular**2).sum())), rel=0.01)


def test_product_of_more_ranks_than_columns() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((9, 5)).astype(np.float32), rng.standard_normal((7, 9)).astype(np.float32)
    found = of_product(a, b, 5)
    np.testing.assert_allclose(found.b @ found.a, b @ a, atol=1e-4)
    assert found.error < 1e-6
