"""Does this llama.cpp mix adapters rightly here? Asked at start-up, on a small real model.

Mixing rests on things that llama.cpp does not promise: the layout of its tensors, which nodes it builds for a
LoRA, when it reuses a graph. So before it is used, two random adapters and the bare base share one pass, and
the logits must be those of each alone, loaded by llama.cpp's own means.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding import library
from llamaleon_server.binding.adapters import AdapterLoader
from llamaleon_server.binding.bank import FIRST_RANK, Bank, write_lora
from llamaleon_server.binding.batch import Batch
from llamaleon_server.binding.context import Context, ContextOptions
from llamaleon_server.binding.errors import BindingError
from llamaleon_server.binding.layout import UnknownLayout
from llamaleon_server.binding.mixer import Mixer, Place, Rows
from llamaleon_server.binding.model import Model
from llamaleon_server.binding.options import UNSPLIT, Split
from llamaleon_server.binding.weights import LoraWeights

RANKS = (16, 32)
PROMPT = (5, 17, 42, 99)
LARGEST_DIFFERENCE = 1e-3  # of a logit; the adapters change them by more than 4
# GPUs round products of 16-bit weights to 16 bits, each shape in its own way: that comes to 0.01 here, and
# rows mistaken in the last layer alone to 0.4.
LARGEST_ON_DEVICE = 0.1
SMALLEST_EFFECT = 0.1

Logits = NDArray[np.float32]


def why_not(model_path: Path, devices: Sequence[int] = (), split: Split = UNSPLIT) -> str | None:
    """None if adapters can be mixed here, on accelerators if there are any; else the reason why not."""
    try:
        with library.silence():
            model = Model(model_path, gpu_layers=-1 if devices else 0, split=split)
            try:
                largest = LARGEST_ON_DEVICE if devices else LARGEST_DIFFERENCE
                return _compare(model, Mixer(devices), largest)
            finally:
                model.close()
    except (BindingError, UnknownLayout, OSError) as error:
        return str(error)


def _compare(model: Model, mixer: Mixer, largest: float = LARGEST_DIFFERENCE) -> str | None:
    adapters = [_random_adapter(model, seed, rank) for seed, rank in enumerate(RANKS)]
    context = Context(model, _options(mixer))
    try:
        alone = [_alone(model, context, adapter) for adapter in (*adapters, None)]
        mixed, single = _mixed(model, context, mixer, adapters)
    finally:
        context.close()
    if min(np.abs(alone[0] - alone[2]).max(), np.abs(alone[1] - alone[2]).max()) < SMALLEST_EFFECT:
        return "the self-test's own adapters have no effect"
    worst = max(float(np.abs(mixed[i] - alone[i][i]).max()) for i in range(3))
    worst = max(worst, float(np.abs(single - alone[1]).max()))
    if not worst <= largest:  # also NaN
        return f"in one pass the logits of adapters differ by {worst:.3g} from those of each alone"
    return None


def _options(mixer: Mixer) -> ContextOptions:
    return ContextOptions(
        kv_tokens=256,
        sequences=3,
        batch_tokens=16,
        outputs=16,
        threads=1,
        flash_attention=False,
        kv_type="f32",
        mixer=mixer,
    )


def _random_adapter(model: Model, seed: int, rank: int) -> LoraWeights:
    rng, pairs = np.random.default_rng(seed), {}
    for name, tensor in model.header.tensors.items():
        if not (name.startswith("blk.") and name.endswith(".weight") and len(tensor.shape) == 2):
            continue
        n_in, n_out = tensor.shape
        a = rng.standard_normal((rank, n_in)) * n_in**-0.5
        b = rng.standard_normal((n_out, rank)) * 0.5 * rank**-0.5
        pairs[name] = (a.astype(np.float16), b.astype(np.float16))
    return LoraWeights("F16", rank, pairs)


def _decode(context: Context) -> Logits:
    """Logits of the last token of three sequences, (3, n_vocab), in one pass."""
    batch = Batch(3 * len(PROMPT))
    for sequence in range(3):
        context.remove(sequence)
        batch.add(PROMPT, 0, sequence, 1)
    if not context.decode(batch):
        raise BindingError("the self-test's pass found no room")
    return context.logits(3).copy()


def _alone(model: Model, context: Context, adapter: LoraWeights | None) -> Logits:
    if adapter is None:
        context.use_adapters(())
        return _decode(context)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.gguf"
        write_lora(path, model, adapter)
        loader = AdapterLoader(model)
        loaded = loader.load(path)
    context.use_adapters(((loaded.handle, 1.0),))
    logits = _decode(context)
    context.use_adapters(())
    loader.free(loaded.handle)
    return logits


def _mixed(
    model: Model, context: Context, mixer: Mixer, adapters: list[LoraWeights]
) -> tuple[Logits, Logits]:
    """Logits of adapter 0, adapter 1 and the base in one pass; and of adapter 1 in all three rows."""
    places, first = [], FIRST_RANK
    for adapter in adapters:
        places.append(Place("F16", first, adapter.rank))
        first += adapter.rank
    bank = mixer.banks["F16"] = Bank(model, frozenset(adapters[0].pairs), "F16", first)
    try:
        for place, adapter in zip(places, adapters, strict=True):
            for _ in bank.write(place.first, place.ranks, adapter):
                pass
        context.use_adapters(mixer.handles)
        count = len(PROMPT)
        mixer.arrange(context.handle, _rows(count, [((places[0], 1.0),), ((places[1], 1.0),), ()]))
        mixed = _decode(context)
        mixer.arrange(context.handle, _rows(count, [((places[1], 1.0),)] * 3))
        single = _decode(context)
        context.use_adapters(())
        return mixed, single
    finally:
        mixer.banks.clear()
        mixer.rest()
        context.use_adapters(())
        bank.close()


def _rows(count: int, sets: list[tuple[tuple[Place, float], ...]]) -> Rows:
    return tuple((uses, count, 1) for uses in sets)
