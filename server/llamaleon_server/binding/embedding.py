"""Contexts that compute embeddings: a vector for each token, or one for each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding.context import Context, ContextOptions
from llamaleon_server.binding.errors import DecodeError
from llamaleon_server.binding.model import Model
from llamaleon_server.binding.vocabulary import Vocabulary

RERANK_TEMPLATE = "tokenizer.chat_template.rerank"


class Pooling(IntEnum):
    """enum llama_pooling_type."""

    NONE = 0
    MEAN = 1
    CLS = 2
    LAST = 3
    RANK = 4


def pooling_of(model: Model) -> Pooling | None:
    """How the model was trained to be pooled; None if it says nothing, as chat models do."""
    value = model.header.model_value("pooling_type")
    if not isinstance(value, int) or value not in set(Pooling):
        return None
    return Pooling(value) or None  # "none" leaves it to us


def has_dense_layers(model: Model) -> bool:
    """Whether layers follow the pooling (sentence-transformers' dense modules), which llama.cpp then runs."""
    return any(name.startswith("dense_2.") for name in model.header.tensors)


class EmbeddingContext(Context):
    """`options.pooling` says what a pass leaves: NONE a row for each token, else one for each sequence."""

    def __init__(self, model: Model, options: ContextOptions) -> None:
        super().__init__(model, options)
        self.size: int = native.llama_model_n_embd_out(model.handle)
        if options.pooling == Pooling.RANK:
            self.size = native.llama_model_n_cls_out(model.handle)

    def token_vectors(self, count: int) -> NDArray[np.float32]:
        """Of the last pass, (count, n_embd) in batch order; valid until the next pass."""
        pointer = native.llama_get_embeddings(self.handle)
        if not pointer:
            raise DecodeError(-1)
        return np.ctypeslib.as_array(pointer, shape=(count, self.size))

    def pooled(self, sequence: int) -> NDArray[np.float32]:
        """Of one sequence of the last pass, a copy: (n_embd,), or (n_labels,) of a reranking model."""
        pointer = native.llama_get_embeddings_seq(self.handle, sequence)
        if not pointer:
            raise DecodeError(-1)
        return np.ctypeslib.as_array(pointer, shape=(self.size,)).copy()


def rank_prompt(model: Model, query: str, document: str) -> list[int]:
    """A query and a document as a reranking model was trained to see them.

    Source: `format_prompt_rerank` in llama.cpp's tools/server/server-common.cpp.
    """
    vocabulary = model.vocabulary
    template = model.header.text(RERANK_TEMPLATE)
    if template is not None:
        parts = template.split("{query}")
        text = query.join(part.replace("{document}", document) for part in parts)
        return vocabulary.tokenize(text, add_special=False, parse_special=True)
    texts = [vocabulary.tokenize(text, add_special=False, parse_special=False) for text in (query, document)]
    return _joined(vocabulary, texts)


def _joined(vocabulary: Vocabulary, texts: Sequence[list[int]]) -> list[int]:
    query, document = texts
    end = vocabulary.separator if vocabulary.eos is None else vocabulary.eos
    ends = [end] if vocabulary.adds_eos and end is not None else []
    begin = [vocabulary.bos] if vocabulary.adds_bos and vocabulary.bos is not None else []
    separator = (
        [vocabulary.separator] if vocabulary.adds_separator and vocabulary.separator is not None else []
    )
    return [*begin, *query, *ends, *separator, *document, *ends]
