"""nano in plain torch: a Qwen2 of four layers, and an initialisation that can already copy.

llama.cpp and transformers read the same architecture, so the file that is exported is served and
fine-tuned like any other Qwen2. What is particular is `initialise`: a small model trained for an hour
spends most of it discovering copying, so the circuit for it (an induction head, arXiv 2209.11895) is put
in place by construction and training only has to keep it. Four bands of the residual stream hold, for each
position, its token (E), the token before (A), the one before that (B), and what to say next (C):

- layer 0, heads 0 and 1, look one and two positions back. Their query and key weights are zero; Qwen2's
  biases alone, rotated by RoPE, make a score that peaks at that distance. They write the tokens found
  there into A and B.
- in the later layers, heads look for positions whose A and B equal the present E and A, that is for the
  place where the last two tokens occurred before, and write the token found there into C, which the output
  matrix reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the same for every file that is exported."""

    vocab: int = 1536
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    ffn: int = 640
    context: int = 1024
    rope_theta: float = 1e6
    norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def rope(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each `(length, head_dim)`, halves repeated as Qwen2 has them."""
    half = shape.head_dim // 2
    frequency = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency).repeat(1, 2)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Block(nn.Module):
    """Attention and a gated MLP, each behind a norm; weights are named as in transformers' Qwen2."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        n = shape.hidden
        self.heads = shape.heads
        self.input_layernorm = nn.RMSNorm(n, eps=shape.norm_eps)
        self.q_proj = nn.Linear(n, n)
        self.k_proj = nn.Linear(n, n)
        self.v_proj = nn.Linear(n, n)
        self.o_proj = nn.Linear(n, n, bias=False)
        self.post_attention_layernorm = nn.RMSNorm(n, eps=shape.norm_eps)
        self.gate_proj = nn.Linear(n, shape.ffn, bias=False)
        self.up_proj = nn.Linear(n, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, n, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x` and the result are `(rows, length, hidden)`."""
        rows, length, n = x.shape
        h = self.input_layernorm(x)
        q, k, v = (
            p(h).view(rows, length, self.heads, -1).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + self.o_proj(mixed.transpose(1, 2).reshape(rows, length, n))
        h = self.post_attention_layernorm(x)
        out: Tensor = x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return out


class Nano(nn.Module):
    """The whole model; `forward` stops before the output matrix, so that a loss can skip positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.lm_head = nn.Linear(shape.hidden, shape.vocab, bias=False)
        cos, sin = rope(shape, shape.context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """`ids` `(rows, length)` to normalised states `(rows, length, hidden)`."""
        x = self.embed_tokens(ids)
        cos, sin = self.get_buffer("cos")[: ids.shape[1]], self.get_buffer("sin")[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.norm(x)
        return out


# The bands of the residual stream at the start, for a hidden size of 256.
BAND_E, BAND_A, BAND_B, BAND_C = slice(0, 96), slice(96, 144), slice(144, 192), slice(192, 256)
_INDUCTION_HEADS = ((1, 0), (1, 1), (2, 0), (3, 0))  # (layer, head)
_EMBEDDING = 0.3
_POSITION_SCORE = 80.0  # per frequency, before the division by sqrt(head_dim)
_POSITION_FREQUENCIES = 6
_FIRST_INVARIANT = 14  # from this frequency on, RoPE turns less than one radian over 400 tokens
_MATCH_LAST, _MATCH_BEFORE = 24, 12  # dimensions of a head that compare the last token, and the one before


def _orthonormal(rows: int, cols: int, generator: torch.Generator) -> Tensor:
    """`(rows, cols)` with orthonormal rows; rows <= cols."""
    q, _ = torch.linalg.qr(torch.randn(cols, rows, generator=generator))
    rows_of_q: Tensor = q.T.contiguous()
    return rows_of_q


def _look_back(block: Block, head: int, distance: int, *, write: slice, pick: Tensor, shape: Shape) -> None:
    """Make `head` attend `distance` positions back and copy `pick` of band E into `write`."""
    size = shape.head_dim
    rows = slice(head * size, (head + 1) * size)
    half = size // 2
    frequency = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    amplitude = math.sqrt(_POSITION_SCORE)
    key, query = torch.zeros(size), torch.zeros(size)
    for i in range(_POSITION_FREQUENCIES):
        angle = float(distance * frequency[i])
        key[i] = amplitude
        query[i], query[i + half] = amplitude * math.cos(angle), -amplitude * math.sin(angle)
    for projection, bias in ((block.q_proj, query), (block.k_proj, key)):
        projection.weight[rows] = 0.0
        projection.bias[rows] = bias
    width = pick.shape[0]
    gain = 0.42
    block.v_proj.weight[rows] = 0.0
    block.v_proj.weight[rows.start : rows.start + width, BAND_E] = gain * pick
    block.o_proj.weight[:, rows] = 0.0
    block.o_proj.weight[write, rows.start : rows.start + width] = gain * torch.eye(width)


def _induce(
    block: Block, head: int, *, pick: Tensor, say: Tensor, shape: Shape, generator: torch.Generator
) -> None:
    """Make `head` attend to what followed the last two tokens before, and write it into band C."""
    size = shape.head_dim
    start, half = head * size, size // 2
    rows = slice(start, start + size)
    still = [i for f in range(_FIRST_INVARIANT, half) for i in (f, f + half)]
    last, before = still[:_MATCH_LAST], still[_MATCH_LAST : _MATCH_LAST + _MATCH_BEFORE]
    h_last = 1.6 * _orthonormal(_MATCH_LAST, pick.shape[0], generator)
    h_before = 1.8 * _orthonormal(_MATCH_BEFORE, pick.shape[0], generator)
    for projection in (block.q_proj, block.k_proj, block.v_proj):
        projection.weight[rows] = 0.0
    for i, dim in enumerate(last):
        block.q_proj.weight[start + dim, BAND_E] = h_last[i] @ pick
        block.k_proj.weight[start + dim, BAND_A] = h_last[i]
    for i, dim in enumerate(before):
        block.q_proj.weight[start + dim, BAND_A] = h_before[i]
        block.k_proj.weight[start + dim, BAND_B] = h_before[i]
    block.v_proj.weight[rows, BAND_E] = 0.6 * say
    block.o_proj.weight[:, rows] = 0.0
    block.o_proj.weight[BAND_C, rows] = 0.6 * torch.eye(size)


@torch.no_grad()
def initialise(model: Nano, seed: int, same_word: list[tuple[int, int]]) -> None:
    """Set every weight; `same_word` pairs pieces that differ by a leading space and start alike."""
    shape, generator = model.shape, torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.06)
        elif name.endswith("bias"):
            parameter.zero_()
    code = torch.randn(shape.vocab, BAND_E.stop, generator=generator)
    space = 0.5 * torch.randn(BAND_E.stop, generator=generator)
    for spaced, plain in same_word:
        code[spaced] = code[plain] + space
    model.embed_tokens.weight.mul_(0.1)
    model.embed_tokens.weight[:, BAND_E] = _EMBEDDING * code
    say = _orthonormal(BAND_C.stop - BAND_C.start, BAND_E.stop, generator)
    model.lm_head.weight.mul_(0.3)
    model.lm_head.weight[:, BAND_C] = 0.125 * code @ say.T
    pick = _orthonormal(BAND_A.stop - BAND_A.start, BAND_E.stop, generator)
    blocks = [layer for layer in model.layers if isinstance(layer, Block)]
    for block in blocks:
        block.o_proj.weight.mul_(0.1)
        block.down_proj.weight.mul_(0.1)
    _look_back(blocks[0], 0, 1, write=BAND_A, pick=pick, shape=shape)
    _look_back(blocks[0], 1, 2, write=BAND_B, pick=pick, shape=shape)
    for layer, head in _INDUCTION_HEADS:
        _induce(blocks[layer], head, pick=pick, say=say, shape=shape, generator=generator)
