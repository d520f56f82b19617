"""The self-test that decides about mixing: it passes here, and it notices what would be wrong."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from tests.data import NANO
from tests.unit.server.binding.conftest import options_for

from llamaleon_server.binding import library, mixing, selftest
from llamaleon_server.binding.bank import FIRST_RANK, GRANULE, Bank
from llamaleon_server.binding.batch import Batch
from llamaleon_server.binding.context import Context
from llamaleon_server.binding.hook import COMPUTE, NODES
from llamaleon_server.binding.layout import find_layout
from llamaleon_server.binding.loading import open_model
from llamaleon_server.binding.mixer import Mixer, Place
from llamaleon_server.binding.model import Model


@pytest.fixture(scope="module")
def nano() -> Model:
    return Model(NANO, gpu_layers=0)


def cpu_device() -> int:
    library.ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    return int(library.ggml.ggml_backend_dev_by_type(0))


def test_it_passes_here() -> None:
    assert selftest.why_not(NANO) is None


def test_it_passes_where_a_device_multiplies(nano: Model) -> None:
    """The processor in the place of a GPU: the same graphs, the same callback."""
    mixer = Mixer([cpu_device()], checks_host=False)
    assert selftest._compare(nano, mixer) is None
    assert mixer._plan[COMPUTE] != 0
    assert mixer._plan[NODES] == 7 * nano.layers  # every product of the mixed pass, none of the other


@pytest.mark.parametrize("count", [1, 4])
def test_one_row_of_weights_may_serve_any_number_of_rows(nano: Model, count: int) -> None:
    """Where the model splits a pass as it likes, and by sequence: then all rows are of the same blend."""
    here, there = (
        _blended(nano, mixer, count) for mixer in (Mixer(), Mixer([cpu_device()], checks_host=False))
    )
    assert np.array_equal(here, there)


def _blended(model: Model, mixer: Mixer, count: int) -> selftest.Logits:
    """Logits of three sequences of `count` tokens under a blend of two adapters."""
    adapters = [selftest._random_adapter(model, seed, GRANULE) for seed in range(2)]
    context = Context(model, selftest._options(mixer))
    bank = mixer.banks["F16"] = Bank(model, frozenset(adapters[0].pairs), "F16", FIRST_RANK + 2 * GRANULE)
    places = [Place("F16", FIRST_RANK + number * GRANULE, GRANULE) for number in range(2)]
    for place, adapter in zip(places, adapters, strict=True):
        assert len(list(bank.write(place.first, place.ranks, adapter))) == len(adapter.pairs)
    context.use_adapters(mixer.handles)
    blend = tuple((place, 0.6) for place in places)
    mixer.arrange(context.handle, ((blend, 3 * count, 3),), uniform=True)
    batch = Batch(3 * count)
    for sequence in range(3):
        batch.add(selftest.PROMPT[:count], 0, sequence, 1)
    assert context.decode(batch)
    logits = context.logits(3).copy()
    context.close()
    bank.close()
    return logits


def test_it_notices_rows_that_are_not_multiplied(nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mixer, "_arrange_bank", lambda self, bank, *_: bank.look_at(0, bank.ranks) or False)
    reason = selftest._compare(nano, Mixer())
    assert reason is not None
    assert "differ" in reason


def test_it_notices_rows_that_are_mistaken(nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layer's rows are outputs, not tokens: one map for both gives plausible, wrong logits."""
    honest = np.repeat
    monkeypatch.setattr(np, "repeat", lambda table, counts, axis: honest(table[::-1], counts, axis))
    assert selftest._compare(nano, Mixer()) is not None


def test_it_notices_another_layout(nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not found out, but as if ggml had moved a field: no product is recognised any more."""
    mixer = Mixer()
    from llamaleon_server.binding import hook

    mixer._plan[hook.MUL_MAT] = find_layout().get_rows
    assert selftest._compare(nano, mixer) is not None


def test_a_machine_that_fails_it_serves_by_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mixing, "TEST_MODEL", tmp_path / "absent.gguf")
    loaded = open_model(options_for(NANO))
    try:
        assert loaded.mixer is None
        assert loaded.mixing_off is not None
        assert "absent.gguf" in loaded.mixing_off
    finally:
        loaded.context.close()
        loaded.model.close()
