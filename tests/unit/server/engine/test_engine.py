"""One real engine process, spoken to over its pipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.engine_process import Answer, EngineDied, EngineProcess

from llamaleon_server.engine import protocol
from llamaleon_server.engine.protocol import Cancel, Detokenize, DumpLogits, Sampling, Tokenize

START = "Once upon a time"


def tokens_of(engine: EngineProcess, text: str) -> list[int]:
    lists = engine.ask(Tokenize, texts=[text], add_special=True).tokens
    assert lists is not None
    return lists[0]


def code_of(answer: Answer) -> str:
    assert answer.failed is not None, answer
    return answer.failed.code


def test_ready_describes_the_model(engine: EngineProcess) -> None:
    ready = engine.ready
    assert (ready.n_vocab, ready.context_tokens, ready.train_context_tokens) == (512, 512, 512)
    assert (ready.bos_token_id, ready.end_token_ids, ready.adds_bos) == (1, [2], True)
    assert (ready.device, ready.gpu_layers, ready.n_params) == ("CPU", 0, 260032)
    assert engine.progress == sorted(engine.progress)
    assert engine.progress[-1] == 1.0


def test_a_story_is_told(engine: EngineProcess) -> None:
    answer = engine.generate(START, max_tokens=20)
    assert answer.text == ", there was a little girl named Lily. She loved to play outsid"
    assert (answer.done.reason, answer.done.prompt_tokens, answer.done.completion_tokens) == ("length", 5, 20)
    assert len(answer.tokens) == answer.deltas == 20


def test_a_token_prompt_is_the_same_as_its_text(engine: EngineProcess) -> None:
    tokens = tokens_of(engine, START)
    assert engine.generate(tokens, max_tokens=9).text == engine.generate(START, max_tokens=9).text


def test_an_end_token_is_counted_but_not_listed(engine: EngineProcess) -> None:
    force = Sampling(temperature=0.0, logit_bias={2: 1000.0})
    answer = engine.generate(START, max_tokens=5, sampling=force, logprobs=1)
    assert (answer.text, answer.tokens, answer.logprobs) == ("", [], [])
    assert (answer.done.reason, answer.done.completion_tokens) == ("stop", 1)


def test_ignore_eos_forbids_end_tokens(engine: EngineProcess) -> None:
    force = Sampling(temperature=0.0, logit_bias={2: 1000.0})
    answer = engine.generate(START, max_tokens=5, sampling=force, ignore_eos=True)
    assert (answer.done.reason, answer.done.completion_tokens) == ("length", 5)


def test_a_stop_string_across_tokens_is_cut_exactly(engine: EngineProcess) -> None:
    plain = engine.generate(START, max_tokens=40).text
    answer = engine.generate(START, max_tokens=40, stop=("loved to pl", "nothing"), logprobs=0)
    assert answer.text == plain[: plain.index("loved to pl")]
    assert (answer.done.reason, answer.done.stop_string) == ("stop", "loved to pl")
    assert [logprob.token_id for logprob in answer.logprobs] == answer.tokens
    assert b"".join(logprob.piece for logprob in answer.logprobs).startswith(answer.text.encode())


def test_bytes_of_a_character_are_joined(engine: EngineProcess) -> None:
    """This vocabulary writes `¿` as two byte tokens, here drawn one after the other."""
    first, second = tokens_of(engine, "¿")[-2:]
    one_each = Sampling(temperature=0.0, presence_penalty=50.0, logit_bias={first: 1010.0, second: 1000.0})
    half = engine.generate(START, max_tokens=1, sampling=one_each)
    assert (half.text, half.tokens) == ("\ufffd", [first])  # no more bytes come: certain
    whole = engine.generate(START, max_tokens=2, sampling=one_each)
    assert (whole.text, whole.tokens, whole.deltas) == ("¿", [first, second], 2)


def test_nothing_may_be_generated(engine: EngineProcess) -> None:
    answer = engine.generate(START, max_tokens=0, prompt_logprobs=1)
    assert (answer.text, answer.done.completion_tokens, answer.done.reason) == ("", 0, "length")
    assert answer.prompt is not None
    assert len(answer.prompt) == 5


def test_prompt_logprobs_are_those_of_generating_it(engine: EngineProcess) -> None:
    generated = engine.generate(START, max_tokens=30, logprobs=3)
    whole = tokens_of(engine, START) + generated.tokens
    scored = engine.generate(whole, max_tokens=0, prompt_logprobs=3).prompt
    assert scored is not None
    assert [entry.token_id for entry in scored] == whole
    assert scored[0].logprob is None
    for there, here in zip(scored[5:], generated.logprobs, strict=True):
        assert there.logprob == pytest.approx(here.logprob, abs=1e-4)
        assert [t for t, _, _ in there.top] == [t for t, _, _ in here.top]
        assert there.top[0][0] == there.token_id, "greedy"


def test_logprobs_are_of_the_raw_distribution(engine: EngineProcess) -> None:
    hot = Sampling(temperature=5.0, seed=1, top_k=2, logit_bias={300: 3.0})
    plain, sampled = (
        engine.generate(START, max_tokens=1, logprobs=20, sampling=sampling).logprobs[0].top
        for sampling in (Sampling(temperature=0.0), hot)
    )
    for one, other in zip(plain, sampled, strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], abs=1e-4)


def test_a_repeated_prompt_reuses_all_but_its_last_token(engine: EngineProcess) -> None:
    prompt = "Tom had a red car and a blue"
    first = engine.generate(prompt, max_tokens=8)
    again = engine.generate(prompt, max_tokens=8)
    assert again.done.cached_tokens == again.done.prompt_tokens - 1
    assert again.tokens == first.tokens
    assert engine.generate(prompt, max_tokens=8, cache_prompt=False).done.cached_tokens == 0
    scored = engine.generate(prompt, max_tokens=1, prompt_logprobs=0)
    assert scored.done.cached_tokens == 0
    assert scored.prompt is not None
    assert len(scored.prompt) == scored.done.prompt_tokens


def test_an_answer_continued_reuses_the_answer(engine: EngineProcess) -> None:
    first = engine.generate("Sam saw a frog", max_tokens=30)
    conversation = tokens_of(engine, "Sam saw a frog") + first.tokens
    more = engine.generate(conversation, max_tokens=4)
    assert more.done.cached_tokens == len(conversation) - 1


def test_a_seed_decides_whatever_else_runs(engine: EngineProcess) -> None:
    warm = Sampling(temperature=1.2, seed=7, top_p=0.95)
    alone = engine.generate(START, max_tokens=20, sampling=warm)
    numbers = [
        engine.start(START, max_tokens=20, sampling=Sampling(temperature=1.0, seed=seed)) for seed in (1, 2)
    ]
    numbers.append(engine.start(START, max_tokens=20, sampling=warm))
    first, second, same = engine.wait(numbers)
    assert same.tokens == alone.tokens
    assert len({tuple(first.tokens), tuple(second.tokens), tuple(same.tokens)}) == 3


def test_penalties_change_the_choice(engine: EngineProcess) -> None:
    loop = [*tokens_of(engine, "red ball red ball red ball red ball red")]
    plain = engine.generate(loop, max_tokens=12).tokens
    repeat = engine.generate(
        loop, max_tokens=12, sampling=Sampling(temperature=0.0, repeat_penalty=1.8)
    ).tokens
    never = Sampling(temperature=0.0, presence_penalty=50.0)
    fresh = engine.generate(loop, max_tokens=12, sampling=never).tokens
    assert repeat != plain
    assert len(set(fresh)) == 12, "a token once generated is out of reach"


def test_min_p_one_is_greedy(engine: EngineProcess) -> None:
    strict = Sampling(temperature=2.0, min_p=1.0, seed=3)
    assert (
        engine.generate(START, max_tokens=9, sampling=strict).tokens
        == engine.generate(START, max_tokens=9).tokens
    )


def test_a_prompt_too_long_names_both_numbers(engine: EngineProcess) -> None:
    answer = engine.generate([300] * 512, max_tokens=1)
    assert code_of(answer) == "context_length_exceeded"
    assert answer.failed is not None
    assert "512 tokens; the prompt has 512" in answer.failed.message
    assert engine.generate([300] * 512, max_tokens=0).done.prompt_tokens == 512


def test_without_max_tokens_the_context_is_the_limit(engine: EngineProcess) -> None:
    answer = engine.generate([300] * 480, ignore_eos=True)
    assert (answer.done.reason, answer.done.completion_tokens) == ("length", 32)


WRONG: dict[str, dict[str, Any]] = {
    "temperature": {"sampling": Sampling(temperature=-1.0)},
    "top_p": {"sampling": Sampling(top_p=float("nan"))},
    "logit_bias": {"sampling": Sampling(logit_bias={512: 1.0})},
    "logprobs": {"logprobs": 21},
    "max_tokens": {"max_tokens": -1},
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_named(engine: EngineProcess, field: str) -> None:
    answer = engine.generate(START, **WRONG[field])
    assert code_of(answer) == "bad_request"
    assert answer.failed is not None
    assert answer.failed.param == field


def test_a_wrong_prompt_is_named(engine: EngineProcess) -> None:
    for prompt in ([], [512], [-1]):
        answer = engine.generate(prompt)
        assert code_of(answer) == "bad_request"
        assert answer.failed is not None
        assert answer.failed.param == "prompt"


def test_cancelled_requests_stop_and_say_nothing(engine: EngineProcess) -> None:
    number = engine.start(START, ignore_eos=True)
    while engine.answers[number].deltas < 3:
        engine.receive()
    engine.send(Cancel(id=number))
    engine.send(Cancel(id=987654))  # nobody: ignored
    assert engine.generate(START, max_tokens=5).done.completion_tokens == 5
    status = engine.status
    assert (status.running, status.waiting) == (0, 0)
    assert engine.answers[number].finish is None


def test_a_malformed_message_fails_alone(engine: EngineProcess) -> None:
    number = engine.new_id()
    engine.send_bytes(msgspec.msgpack.encode({"type": "generate", "id": number, "prompt": 3}))
    reply = engine.wait_reply(number)
    assert isinstance(reply, protocol.Failed)
    assert reply.code == "bad_request"
    assert "prompt" in reply.message
    engine.send_bytes(b"\xc1 no msgpack at all")
    assert engine.generate(START, max_tokens=2).done.completion_tokens == 2


def test_tokenize_and_detokenize_are_inverse(engine: EngineProcess) -> None:
    text = "¿Dónde está la niña? 5 €"
    lists = engine.ask(Tokenize, texts=[text, ""]).tokens
    assert lists is not None
    assert lists[1] == []
    pieces = engine.ask(Detokenize, tokens=lists[0]).pieces
    assert pieces is not None
    assert b"".join(pieces).decode().strip() == text
    failed = engine.try_ask(Detokenize, tokens=[512])
    assert isinstance(failed, protocol.Failed)


def test_dumped_logits_are_those_of_prompt_logprobs(engine: EngineProcess, tmp_path: Path) -> None:
    sequences = [tokens_of(engine, START), [300, 301] * 70, []]
    running = engine.start(START, ignore_eos=True)
    path = tmp_path / "logits.npz"
    engine.ask(DumpLogits, sequences=sequences, path=str(path))
    engine.send(Cancel(id=running))
    with np.load(path) as dumped:
        assert [dumped[name].shape for name in ("0", "1", "2")] == [(5, 512), (140, 512), (0, 512)]
        assert dumped["0"].dtype == np.float32
        for name, tokens in (("0", sequences[0]), ("1", sequences[1])):
            rows = dumped[name][:-1].astype(np.float64)
            scores = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
            scored = engine.generate(tokens, max_tokens=0, prompt_logprobs=0).prompt
            assert scored is not None
            want = [entry.logprob for entry in scored[1:]]
            assert scores[np.arange(len(rows)), tokens[1:]] == pytest.approx(want, abs=1e-4)


def test_a_dump_that_cannot_be_written_fails_alone(engine: EngineProcess, tmp_path: Path) -> None:
    reply = engine.try_ask(DumpLogits, sequences=[[1, 2]], path=str(tmp_path / "no" / "where.npz"))
    assert isinstance(reply, protocol.Failed)
    assert engine.generate(START, max_tokens=1).done.completion_tokens == 1


def test_a_full_queue_says_so(stories: Path) -> None:
    with EngineProcess(stories, threads=1, parallel_sequences=1, queue_limit=2) as small:
        numbers = [small.start(START, max_tokens=200, ignore_eos=True) for _ in range(6)]
        answers = small.wait(numbers)
    failed = [answer for answer in answers if answer.failed is not None]
    assert {code_of(answer) for answer in failed} == {"queue_full"}
    assert len(answers) - len(failed) in {2, 3}
    assert all(answer.done.completion_tokens == 200 for answer in answers if answer.failed is None)


def test_the_end_of_the_stream_ends_the_process(stories: Path) -> None:
    with EngineProcess(stories, threads=1) as process:
        process.start(START, ignore_eos=True)
        assert process.process.stdin is not None
        process.process.stdin.close()
        assert process.process.wait(10) == 0


def test_shutdown_ends_the_process(stories: Path) -> None:
    with EngineProcess(stories, threads=1) as process:
        process.send(protocol.Shutdown())
        assert process.process.wait(10) == 0


def test_what_cannot_be_served_is_fatal_with_a_reason(stories: Path, tmp_path: Path) -> None:
    whole = stories.read_bytes()
    cases = {
        "truncated.gguf": (whole[:-100_000], "truncated"),
        "other.gguf": (b"PK\x03\x04 a zip", "not a GGUF"),
        "strange.gguf": (whole.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lluma", 1), "lluma"),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(EngineDied, match=reason):
            EngineProcess(path)
    with pytest.raises(EngineDied, match="missing"):
        EngineProcess(tmp_path / "missing.gguf")
    with pytest.raises(EngineDied, match="kv_type"):
        EngineProcess(stories, kv_type="f12")


@pytest.mark.parametrize("options", [{"batch_tokens": 7}, {"kv_type": "bf16"}, {"flash_attention": True}])
def test_options_do_not_change_the_story(stories: Path, options: dict[str, Any]) -> None:
    with EngineProcess(stories, threads=1, parallel_sequences=3, **options) as other:
        numbers = [other.start(START + " there was", max_tokens=10) for _ in range(5)]
        texts = {answer.text for answer in other.wait(numbers)}
    assert texts == {" a little girl named Lily. She lo"}
