"""Byte-level BPE that llama.cpp reads as `qwen2`; a word has the same pieces wherever it stands.

Copying is what nano is for, and the usual BPE makes it needlessly hard: ` Marbadia` in a sentence and
`Marbadia` after a quote have nothing in common. Here merges are learned on words without their space; only
then does each piece that begins words get a merge with the space in front, of the lowest priority. So
`▁Mar|badia` and `Mar|badia` always correspond piece by piece, and `spaced_pairs` tells the model which
pieces are the same but for the space, so that it can start them from one embedding.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llamaleon_trainer.nano import corpus

# llama.cpp's pattern for tokenizer.ggml.pre = "qwen2", src/llama-vocab.cpp.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TRAINING_PATTERN = r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s"
ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (ENDOFTEXT, IM_START, IM_END)
VOCAB_SIZE = 1536
_SPACE = "\u0120"  # the byte-level form of a space
_SPACED_PIECES = 400
_SAMPLE_CONVERSATIONS = 12000

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _byte_level(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _build(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = _byte_level(QWEN2_PATTERN)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def train(seed: int) -> Tokenizer:
    """Merges from generated text; `VOCAB_SIZE` tokens, the special ones last."""
    roles = ["system", "user", "assistant"] * (_SAMPLE_CONVERSATIONS // 10)
    sample = corpus.texts(seed, _SAMPLE_CONVERSATIONS) + roles
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = _byte_level(_TRAINING_PATTERN)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - _SPACED_PIECES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    base.train_from_iterator(sample, trainer)
    state: dict[str, Any] = json.loads(base.to_str())["model"]
    vocab: dict[str, int] = state["vocab"]
    merges = [(left, right) for left, right in state["merges"]]

    starts: Counter[str] = Counter()
    plain = _build(vocab, merges)
    for encoding in plain.encode_batch(sample):
        for left, right in zip(encoding.tokens, encoding.tokens[1:], strict=False):
            if left == _SPACE and plain.decode([vocab[right]]).isalpha():
                starts[right] += 1
    for piece, _ in sorted(starts.items(), key=lambda item: (-item[1], item[0])):
        if len(vocab) == VOCAB_SIZE - len(SPECIAL):
            break
        if _SPACE + piece not in vocab:
            vocab[_SPACE + piece] = len(vocab)
            merges.append((_SPACE, piece))
    return _build(vocab, merges)


def spaced_pairs(tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """(piece with a space, the same without), for every such pair in the vocabulary."""
    vocab = tokenizer.get_vocab()
    return sorted((i, vocab[t[1:]]) for t, i in vocab.items() if t.startswith(_SPACE) and t[1:] in vocab)


@dataclass(frozen=True)
class Encoded:
    """One conversation as token ids, with True where the assistant speaks."""

    ids: list[int]
    answer: list[bool]


def encode(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> Encoded:
    """ChatML, piece by piece, exactly as `CHAT_TEMPLATE` renders it."""
    ids: list[int] = []
    answer: list[bool] = []
    for message in messages:
        spoken = message["role"] == "assistant"
        head = tokenizer.encode(f"{IM_START}{message['role']}\n").ids
        body = tokenizer.encode(f"{message['content']}{IM_END}").ids
        tail = tokenizer.encode("\n").ids
        ids += head + body + tail
        answer += [False] * len(head) + [spoken] * len(body) + [False] * len(tail)
    return Encoded(ids, answer)


def prompt_ids(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> list[int]:
    """A conversation up to where the assistant is to speak."""
    return [*encode(tokenizer, messages).ids, *tokenizer.encode(f"{IM_START}assistant\n").ids]


def merges_of(tokenizer: Tokenizer) -> list[str]:
    """In GGUF's form: the two halves with a space between."""
    state: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return [f"{left} {right}" for left, right in state["merges"]]


def save(tokenizer: Tokenizer, path: Path) -> None:
    tokenizer.save(str(path))


def load(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))
