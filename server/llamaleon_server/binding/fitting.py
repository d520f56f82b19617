"""What fits: layers on the GPUs, tokens in the cache. Arithmetic only; nothing is measured here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llamaleon_convert.header import Header

LEAST_CONTEXT_TOKENS = 2048  # tried whatever the memory: less serves nobody
MOST_CONTEXT_TOKENS = 32768  # of an automatic context; more must be asked for
KV_SHARE = 4  # the KV cache takes at most this part of the free memory, unless one sequence needs more
KV_TOKENS = 65536  # of all requests together, unless one sequence may have more
GPU_RESERVE_BYTES = 1 << 30  # of each GPU: compute buffers and the driver's own
# enum ggml_type and bytes per element of what the KV cache may be stored as
KV_TYPES: dict[str, tuple[int, float]] = {
    "f32": (0, 4.0),
    "f16": (1, 2.0),
    "bf16": (30, 2.0),
    "q8_0": (8, 34 / 32),
    "q5_1": (7, 24 / 32),
    "q5_0": (6, 22 / 32),
    "q4_1": (3, 20 / 32),
    "q4_0": (2, 18 / 32),
    "iq4_nl": (20, 18 / 32),
}
_BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Sizes:
    """Bytes of each layer, of what follows the last (which moves to a GPU first), and of the embedding."""

    layers: tuple[int, ...]
    output: int
    embedding: int

    @property
    def total(self) -> int:
        return sum(self.layers) + self.output + self.embedding


def sizes_of(header: Header) -> Sizes:
    layers: dict[int, int] = {}
    output = embedding = 0
    for name, tensor in header.tensors.items():
        block = _BLOCK.match(name)
        if block:
            layers[int(block[1])] = layers.get(int(block[1]), 0) + tensor.nbytes
        elif name.startswith("token_embd"):
            embedding += tensor.nbytes
        else:
            output += tensor.nbytes
    if "output.weight" not in header.tensors:
        output += embedding  # tied: the embedding is used again, and copied
    return Sizes(tuple(layers[number] for number in sorted(layers)), output, embedding)


def kv_token_bytes(header: Header, key_type: str, value_type: str) -> int:
    """Memory that one token takes in the KV cache: exact for plain attention, more than a window takes."""
    heads, width = _number(header, "attention.head_count"), _number(header, "embedding_length")
    layers = _number(header, "block_count")
    kv_heads = header.model_value("attention.head_count_kv")
    if isinstance(kv_heads, list):  # a hybrid: layers without attention have none
        total = sum(one for one in kv_heads if isinstance(one, int))
    else:
        total = layers * (kv_heads if isinstance(kv_heads, int) else heads)
    bytes_of_head = 0.0
    for part, kind in (("key", key_type), ("value", value_type)):
        size = _number(header, f"attention.{part}_length") or width // max(heads, 1)
        bytes_of_head += size * KV_TYPES[kind][1]
    return max(1, int(total * bytes_of_head))


def state_bytes(header: Header) -> int:
    """What a recurrent or hybrid model keeps for each sequence, in 32 bits; 0 for others.

    Source: llama.cpp, `llama_hparams::n_embd_r` and `n_embd_s`.
    """
    inner, state = _number(header, "ssm.inner_size"), _number(header, "ssm.state_size")
    taps, groups = _number(header, "ssm.conv_kernel"), _number(header, "ssm.group_count")
    kv_heads = header.model_value("attention.head_count_kv")
    layers = _number(header, "block_count")
    if isinstance(kv_heads, list):
        layers = sum(not one for one in kv_heads)
    return 4 * layers * (inner * state + max(0, taps - 1) * (inner + 2 * groups * state))


def _number(header: Header, name: str) -> int:
    """Of models whose layers differ, the largest."""
    value = header.model_value(name)
    values = value if isinstance(value, list) else [value]
    return max((one for one in values if isinstance(one, int)), default=0)


def gpu_layers(sizes: Sizes, kv_bytes: int, free: Sequence[int]) -> int:
    """How many layers fit on GPUs with so much free memory each; one more than there are: everything.

    `kv_bytes` is the cache of all layers together for one full context: each layer's goes where it goes.
    llama.cpp moves what follows the last layer first, then layers from the last to the first.
    """
    room = sum(max(0, one - GPU_RESERVE_BYTES) for one in free)
    cache = kv_bytes // max(1, len(sizes.layers))
    room -= sizes.output
    if room < 0:
        return 0
    count = 1
    for layer in reversed(sizes.layers):
        room -= layer + cache
        if room < 0:
            break
        count += 1
    return count


def layer_tries(fitting: int, layers: int) -> list[int]:
    """Counts to try, best first; -1 is all. An estimate that was too bold costs a failed try, not a crash."""
    tries = [-1] if fitting > layers else [fitting]
    tries += [fitting * quarters // 4 for quarters in (3, 2, 1)]
    return [*dict.fromkeys(count for count in tries if count), 0]


@dataclass(frozen=True)
class Cache:
    """Tokens of one request, tokens of all together, and why so many."""

    context_tokens: int
    kv_tokens: int
    why: str


def cache(
    *,
    train_tokens: int,
    token_bytes: int,
    free_bytes: int,
    running: int,
    context_tokens: int | None = None,
    kv_tokens: int | None = None,
    least_tokens: int = 0,
) -> Cache:
    """How large the KV cache is to be, if a quarter of the free memory may go to it.

    Given numbers stand. An automatic context is what that quarter holds, between LEAST and MOST, never more
    than the model was trained for. `least_tokens` is granted beside both, as far as the model was trained for
    it and all of the free memory holds it.
    """
    room = max(0, free_bytes) // token_bytes
    fitting = room // KV_SHARE
    why = f"{free_bytes / 1e9:.1f} GB are free, a quarter of it holds {fitting} tokens"
    longest = context_tokens
    if longest is None:
        longest = min(train_tokens, MOST_CONTEXT_TOKENS, max(fitting, LEAST_CONTEXT_TOKENS))
    longest = max(longest, min(least_tokens, train_tokens, room))
    if kv_tokens is None:
        kv_tokens = min(max(KV_TOKENS, longest), longest * running, fitting)
    return Cache(longest, max(longest, kv_tokens), why)
