"""Vectors and scores against transformers' own, on tiny random models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tests.engine_process import EngineProcess
from tests.lora import random_lora
from tests.tiny import encoders, gguf_export
from tests.tiny.families import random_model

from llamaleon_server.engine import protocol

TEXTS = ["the cat sat on the mat", "a dog ran under the red tree", "who is cold ?"]
CHAT_TOKENS = [
    [int(token) for token in np.random.default_rng(at).integers(3, 330, 7 + 11 * at)] for at in range(9)
]


def vectors(engine: EngineProcess, inputs: list[str | list[int]], **more: object) -> np.ndarray:
    reply = engine.ask(protocol.Embed, inputs=inputs, **more)
    assert reply.vectors is not None
    return np.array([np.frombuffer(one, "<f4") for one in reply.vectors])


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def hidden(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    """The last layer's output of transformers, (n_tokens, n_embd)."""
    with torch.no_grad():
        rows: np.ndarray = model(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy()
        return rows


@pytest.mark.parametrize("pooling", ["MEAN", "CLS", "LAST"])
def test_encoder_gives_what_transformers_gives(pooling: str, tmp_path: Path) -> None:
    model = encoders.encoder(tmp_path / "bert.gguf", gguf.PoolingType[pooling])
    with EngineProcess(tmp_path / "bert.gguf", threads=1) as engine:
        reply = engine.ask(protocol.Embed, inputs=list(TEXTS))
        found = vectors(engine, list(TEXTS))
        alone = [vectors(engine, [text])[0] for text in TEXTS]
    assert reply.input_tokens == [len(encoders.tokens_of(text)) for text in TEXTS]
    for text, vector, single in zip(TEXTS, found, alone, strict=True):
        rows = hidden(model, encoders.tokens_of(text))
        expected = {"MEAN": rows.mean(axis=0), "CLS": rows[0], "LAST": rows[-1]}[pooling]
        assert cosine(vector, expected) > 0.99999
        assert np.linalg.norm(vector - expected) < 0.01 * np.linalg.norm(expected)
        assert np.abs(vector - single).max() < 1e-3
    assert cosine(found[0], found[1]) < 0.999


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen2") / "qwen2.gguf"
    gguf_export.write(random_model("qwen2"), path, chat_template=None)
    return path


@pytest.fixture(scope="module")
def chat(qwen: Path) -> Iterator[EngineProcess]:
    with EngineProcess(qwen, threads=1, parallel_sequences=4) as engine:
        yield engine


def test_chat_model_is_pooled_by_the_mean(chat: EngineProcess) -> None:
    model = random_model("qwen2")
    long = [3 + at % 300 for at in range(400)]  # several pieces
    inputs: list[str | list[int]] = [*CHAT_TOKENS, long]
    found = vectors(chat, inputs)
    for tokens, vector in zip([*CHAT_TOKENS, long], found, strict=True):
        expected = hidden(model.model, tokens).mean(axis=0)
        assert cosine(vector, expected) > 0.9999


def test_batch_equals_singles(chat: EngineProcess) -> None:
    together = vectors(chat, list(CHAT_TOKENS))
    for tokens, vector in zip(CHAT_TOKENS, together, strict=True):
        assert cosine(vectors(chat, [tokens])[0], vector) > 0.99999


def test_adapter_changes_vectors_and_leaves_the_base(chat: EngineProcess, qwen: Path, tmp_path: Path) -> None:
    chat.load("a", random_lora(qwen, tmp_path / "a.gguf", seed=1))
    base = vectors(chat, list(CHAT_TOKENS))
    under = vectors(chat, list(CHAT_TOKENS), adapters=(protocol.AdapterUse("a"),))
    half = vectors(chat, list(CHAT_TOKENS), adapters=(protocol.AdapterUse("a", 0.5),))
    again = vectors(chat, list(CHAT_TOKENS))
    for one in range(len(CHAT_TOKENS)):
        assert cosine(base[one], under[one]) < 0.99
        assert cosine(half[one], under[one]) < 0.999
        assert cosine(base[one], again[one]) > 0.99999


def test_adapter_of_embeddings_equals_merged_weights(qwen: Path, tmp_path: Path) -> None:
    """Under an adapter the vectors are those of hidden states that its logits come from."""
    adapter = random_lora(qwen, tmp_path / "a.gguf", seed=1)
    use = (protocol.AdapterUse("a"),)
    with (
        EngineProcess(qwen, threads=1, mixing=True) as mixed,
        EngineProcess(qwen, threads=1, mixing=False) as plain,
    ):
        for engine in (mixed, plain):
            engine.load("a", adapter)
        left = vectors(mixed, list(CHAT_TOKENS), adapters=use)
        right = vectors(plain, list(CHAT_TOKENS), adapters=use)
    for one in range(len(CHAT_TOKENS)):
        assert cosine(left[one], right[one]) > 0.9999


def test_streams_go_on_meanwhile(chat: EngineProcess) -> None:
    """Begun behind 30,000 tokens to embed, at least 60 passes, a stream is heard before their end."""
    alone = chat.generate([5, 6, 7], max_tokens=40, ignore_eos=True)
    number = chat.new_id()
    chat.send(protocol.Embed(id=number, inputs=[[3 + at % 300 for at in range(500)]] * 60))
    running = chat.start([5, 6, 7], max_tokens=40, ignore_eos=True, cache_prompt=False)
    reply = chat.wait_reply(number)
    heard = chat.answers[running].deltas
    assert isinstance(reply, protocol.Reply)
    assert reply.input_tokens == [500] * 60
    assert heard > 1
    assert chat.wait([running])[0].tokens == alone.tokens


def test_streams_advance_between_the_pieces(qwen: Path) -> None:
    """A target that no piece meets: each takes 16 tokens, and a token of the stream comes between two."""
    with EngineProcess(qwen, threads=1, step_target_s=1e-6, speculation=False) as engine:
        vectors(engine, [[5] * 20])  # from now on the engine knows what a token takes
        running = engine.start([5, 6, 7], max_tokens=400, ignore_eos=True)
        while engine.answers[running].deltas < 3:
            engine.receive()
        begun = engine.answers[running].deltas
        engine.ask(protocol.Embed, inputs=[[5] * 480])
        assert engine.answers[running].deltas - begun >= 480 // 16 - 2


def test_cancelled_embedding_ends_and_leaves_others_alone(chat: EngineProcess) -> None:
    first, second = chat.new_id(), chat.new_id()
    chat.send(protocol.Embed(id=first, inputs=[[9] * 500] * 200))
    chat.send(protocol.Embed(id=second, inputs=[CHAT_TOKENS[0]]))
    chat.send(protocol.Cancel(first))
    reply = chat.wait_reply(second)
    assert isinstance(reply, protocol.Reply)
    assert (
        cosine(np.frombuffer((reply.vectors or [b""])[0], "<f4"), vectors(chat, [CHAT_TOKENS[0]])[0]) > 0.9999
    )
    assert first not in chat.replies


@pytest.mark.parametrize(
    ("inputs", "code", "param"),
    [
        ([[5] * 600], "context_length_exceeded", "input"),
        ([[5], [336]], "bad_request", "input[1]"),
        ([""], "bad_request", "input"),
    ],
)
def test_refused_by_name(chat: EngineProcess, inputs: list[str | list[int]], code: str, param: str) -> None:
    failed = chat.try_ask(protocol.Embed, inputs=inputs)
    assert isinstance(failed, protocol.Failed)
    assert (failed.code, failed.param) == (code, param)


def test_encoder_does_not_chat_and_chat_model_does_not_rank(chat: EngineProcess, tmp_path: Path) -> None:
    encoders.encoder(tmp_path / "bert.gguf", gguf.PoolingType.MEAN)
    with EngineProcess(tmp_path / "bert.gguf", threads=1) as engine:
        failed = engine.generate("the cat").failed
        assert failed is not None
        assert (failed.code, failed.param) == ("bad_request", "model")
        assert "/v1/embeddings" in failed.message
        longest = engine.ask(protocol.Embed, inputs=[[6] * encoders.CONTEXT_TOKENS])
        assert longest.input_tokens == [encoders.CONTEXT_TOKENS]
        too_long = engine.try_ask(protocol.Embed, inputs=[[6] * (encoders.CONTEXT_TOKENS + 1)])
        assert isinstance(too_long, protocol.Failed)
    refused = chat.try_ask(protocol.Rank, query="a", documents=["b"])
    assert isinstance(refused, protocol.Failed)
    assert (refused.code, refused.param) == ("bad_request", "model")


def test_cross_encoder_scores_as_transformers_does(tmp_path: Path) -> None:
    model = encoders.encoder(tmp_path / "ranker.gguf", gguf.PoolingType.RANK)
    query, documents = "who sat ?", ["the cat sat on the mat", "the sun is warm", "a dog"]
    with EngineProcess(tmp_path / "ranker.gguf", threads=1) as engine:
        reply = engine.ask(protocol.Rank, query=query, documents=documents)
        failed = engine.try_ask(protocol.Embed, inputs=["the cat"])
    assert isinstance(failed, protocol.Failed)
    assert failed.param == "model"
    assert reply.scores is not None
    for document, score, count in zip(documents, reply.scores, reply.input_tokens or [], strict=True):
        tokens = encoders.tokens_of(query) + encoders.tokens_of(document)[1:]
        with torch.no_grad():
            expected = float(model(input_ids=torch.tensor([tokens])).logits[0, 0])
        assert score == pytest.approx(expected, abs=2e-3)
        assert count == len(tokens)
    assert max(reply.scores) - min(reply.scores) > 0.05


def test_causal_reranker_says_how_likely_yes_is(tmp_path: Path) -> None:
    """Qwen3-Reranker's kind: a template of its own, and the last token's state says yes or no."""
    head = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32) / 4

    def make_it_rank(writer: gguf.GGUFWriter) -> None:
        writer.add_pooling_type(gguf.PoolingType.RANK)
        writer.add_classifier_output_labels(["yes", "no"])
        writer.add_string("tokenizer.chat_template.rerank", "<|im_start|>Q {query} D {document}<|im_end|>")
        writer.add_tensor("cls.output.weight", head)

    model = random_model("qwen3")
    gguf_export.write(model, tmp_path / "ranker.gguf", chat_template=None, extra=make_it_rank)
    documents = ["the cat sat on the mat", "a dog " * 40, "about {query}"]
    with EngineProcess(tmp_path / "ranker.gguf", threads=1) as engine:
        reply = engine.ask(protocol.Rank, query="who sat ?", documents=documents)
        texts = [f"<|im_start|>Q who sat ? D {document}<|im_end|>" for document in documents]
        tokens = engine.ask(protocol.Tokenize, texts=texts).tokens
    for prompt, score in zip(tokens or [], reply.scores or [], strict=True):
        logits = head @ hidden(model.model, prompt)[-1]
        assert score == pytest.approx(float(1 / (1 + np.exp(logits[1] - logits[0]))), abs=2e-3)
    assert len(set(reply.scores or [])) == 3


def test_truncated_if_asked_with_the_end_kept(tmp_path: Path) -> None:
    encoders.encoder(tmp_path / "bert.gguf", gguf.PoolingType.LAST)
    words = " ".join(["the cat sat on the mat"] * 20)
    cut = [*encoders.tokens_of(words)[: encoders.CONTEXT_TOKENS - 1], encoders.SEP]
    with EngineProcess(tmp_path / "bert.gguf", threads=1) as engine:
        reply = engine.ask(protocol.Embed, inputs=[words], truncate=True)
        expected = vectors(engine, [cut])[0]
    assert reply.input_tokens == [encoders.CONTEXT_TOKENS]
    assert cosine(np.frombuffer((reply.vectors or [b""])[0], "<f4"), expected) > 0.99999


def test_many_requests_at_once_get_their_own(chat: EngineProcess) -> None:
    numbers = []
    for tokens in CHAT_TOKENS:
        numbers.append(chat.new_id())
        chat.send(protocol.Embed(id=numbers[-1], inputs=[tokens]))
    expected = vectors(chat, list(CHAT_TOKENS))
    for number, vector in zip(numbers, expected, strict=True):
        reply = chat.wait_reply(number)
        assert isinstance(reply, protocol.Reply)
        assert cosine(np.frombuffer((reply.vectors or [b""])[0], "<f4"), vector) > 0.99999
