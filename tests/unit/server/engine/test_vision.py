"""Images of prompts, in tiny random models of three kinds, against mtmd's own helper."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine_process import Answer, EngineDied, EngineProcess
from tests.lora import random_lora
from tests.tiny import eyes, gguf_export
from tests.tiny.families import random_model
from tests.unit.server.engine.seen import next_logits

from llamaleon_server.engine import protocol
from llamaleon_server.engine.protocol import MEDIA_MARKER as IMAGE

EXACT = {"threads": 1, "flash_attention": False, "kv_type": "f32", "parallel_sequences": 4}
KINDS = ("gemma3", "llava", "qwen2vl")


@dataclass
class Seeing:
    """An engine that sees, and the files of its model."""

    kind: str
    model: Path
    projector: Path
    engine: EngineProcess

    def say(self, prompt: str, *images: bytes, **more: Any) -> Answer:
        return self.engine.generate(prompt, media=images, **{"max_tokens": 8, "ignore_eos": True, **more})


def files(kind: str, folder: Path) -> tuple[Path, Path]:
    model, projector = folder / f"{kind}.gguf", folder / f"mmproj-{kind}.gguf"
    if kind == "gemma3":
        gguf_export.write(random_model("gemma3"), model, chat_template=None)
        eyes.gemma3_eyes(projector)
    elif kind == "llava":
        gguf_export.write(random_model("llama"), model, chat_template=None)
        eyes.llava_eyes(projector)
    else:
        eyes.qwen2vl(model)
        eyes.qwen2_eyes(projector)
    return model, projector


@pytest.fixture(scope="module", params=KINDS)
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeing]:
    model, projector = files(request.param, tmp_path_factory.mktemp(request.param))
    with EngineProcess(model, projector_path=str(projector), **EXACT) as engine:
        yield Seeing(request.param, model, projector, engine)


A, B = eyes.picture(1), eyes.picture(2, 100, 40)
# Its header says that it has 16,384 x 16,384 pixels.
WEBP_BOMB = b"RIFF\x16\0\0\0WEBPVP8X" + b"\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2


def test_next_token_is_as_mtmds_helper_has_it(seeing: Seeing) -> None:
    for prompt, images in (
        (f"look at {IMAGE} and say", [A]),
        (f"{IMAGE} first, {IMAGE} second", [B, A]),
        (f"twice {IMAGE}{IMAGE} the same", [A, A]),
    ):
        expected = next_logits(seeing.model, seeing.projector, prompt, images)
        logprobs = expected - np.log(np.exp(expected - expected.max()).sum()) - expected.max()
        answer = seeing.say(prompt, *images, logprobs=5, max_tokens=1, cache_prompt=False)
        assert answer.failed is None
        [said] = answer.logprobs
        for token, _, logprob in said.top:
            assert logprob == pytest.approx(logprobs[token], abs=2e-3)
        assert said.top[0][2] == pytest.approx(logprobs.max(), abs=2e-3)


def test_webp_is_seen_as_the_same_picture_in_another_file(seeing: Seeing) -> None:
    prompt = f"what is {IMAGE} or {IMAGE} here"
    expected = seeing.say(prompt, A, B, logprobs=0, cache_prompt=False)
    found = seeing.say(prompt, eyes.webp(A), B, logprobs=0, cache_prompt=False)
    assert found.failed is None
    assert found.tokens == expected.tokens
    assert [one.logprob for one in found.logprobs] == [one.logprob for one in expected.logprobs]


def test_other_image_other_answer_same_image_same_answer(seeing: Seeing) -> None:
    prompt = f"what is {IMAGE} here"
    one = seeing.say(prompt, A, logprobs=0, cache_prompt=False)
    other = seeing.say(prompt, eyes.picture(3), logprobs=0, cache_prompt=False)
    again = seeing.say(prompt, A, logprobs=0, cache_prompt=False)
    assert one.tokens == again.tokens
    assert one.done.prompt_tokens == other.done.prompt_tokens > 20
    assert abs((one.logprobs[0].logprob or 0) - (other.logprobs[0].logprob or 0)) > 1e-3
    blind = seeing.engine.generate("what is  here", max_tokens=8, ignore_eos=True)
    assert blind.done.prompt_tokens < one.done.prompt_tokens


def test_prefix_cache_never_confuses_images(seeing: Seeing) -> None:
    def prompt(end: str) -> str:
        return f"the very same words before {IMAGE} and after it {end}"

    fresh = {
        (seed, end): seeing.say(prompt(end), eyes.picture(seed), cache_prompt=False).tokens
        for seed in (11, 12)
        for end in ("x", "y")
    }
    for seed, end in ((11, "x"), (12, "x"), (11, "x"), (11, "y"), (12, "y")):
        answer = seeing.say(prompt(end), eyes.picture(seed))
        assert answer.tokens == fresh[seed, end]
    assert answer.done.prompt_tokens - 2 <= answer.done.cached_tokens < answer.done.prompt_tokens


def test_prefix_with_images_comes_back_from_memory(seeing: Seeing) -> None:
    """In a cache that holds one such prompt, the others wait in RAM."""
    words = " so many words" * 25
    prompts = [(f"{at} {IMAGE}{words} {IMAGE} end", (eyes.picture(60 + at), B)) for at in range(3)]
    options = {**EXACT, "parallel_sequences": 1, "context_tokens": 512, "kv_tokens": 512}
    with EngineProcess(seeing.model, projector_path=str(seeing.projector), **options) as engine:
        more: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True}
        fresh = [engine.generate(text, media=images, **more).tokens for text, images in prompts]
        for _ in range(2):
            for (text, images), expected in zip(prompts, fresh, strict=True):
                assert engine.generate(text, media=images, **more).tokens == expected
        if seeing.kind != "gemma3":  # what has a sliding window comes back only to be continued
            assert engine.status.prefix.restored > 0


def test_alone_as_among_others(seeing: Seeing) -> None:
    prompts = [(f"number {at} {IMAGE} please", eyes.picture(20 + at)) for at in range(4)]
    alone = [seeing.say(text, image, cache_prompt=False).tokens for text, image in prompts]
    text = seeing.engine.generate("only words", max_tokens=30, ignore_eos=True).tokens
    words = seeing.engine.start("only words", max_tokens=30, ignore_eos=True, cache_prompt=False)
    numbers = [
        seeing.engine.start(text, media=(image,), max_tokens=8, ignore_eos=True, cache_prompt=False)
        for text, image in prompts
    ]
    together = seeing.engine.wait(numbers)
    assert [answer.tokens for answer in together] == alone
    assert seeing.engine.wait([words])[0].tokens == text


def test_adapter_sees_too(seeing: Seeing, tmp_path: Path) -> None:
    prompt = f"under {IMAGE} it"
    base = seeing.say(prompt, A, logprobs=0, cache_prompt=False)
    seeing.engine.load(
        f"{seeing.kind}-a", random_lora(seeing.model, tmp_path / "a.gguf", seed=1, strength=1.0)
    )
    use = (protocol.AdapterUse(f"{seeing.kind}-a"),)
    under = seeing.say(prompt, A, logprobs=0, adapters=use, cache_prompt=False)
    with EngineProcess(seeing.model, projector_path=str(seeing.projector), mixing=False, **EXACT) as plain:
        plain.load(f"{seeing.kind}-a", tmp_path / "a.gguf")
        expected = plain.generate(prompt, media=(A,), adapters=use, logprobs=0, max_tokens=8, ignore_eos=True)
    assert under.tokens == expected.tokens
    first, other = under.logprobs[0].logprob or 0.0, expected.logprobs[0].logprob or 0.0
    assert first == pytest.approx(other, abs=2e-3)
    assert abs(first - (base.logprobs[0].logprob or 0.0)) > 1e-3
    assert seeing.say(prompt, A, cache_prompt=False).tokens == base.tokens


def test_penalties_and_guesses_do_not_stumble_over_images(seeing: Seeing) -> None:
    sampling = protocol.Sampling(temperature=0.0, repeat_penalty=1.3)
    answer = seeing.say(f"a b a b {IMAGE} a b a b", A, sampling=sampling, max_tokens=60)
    assert answer.done.completion_tokens == 60


@pytest.mark.parametrize(
    ("prompt", "images", "more", "param"),
    [
        (f"{IMAGE} x", (b"no image",), {}, "media[0]"),
        (f"{IMAGE} {IMAGE} x", (A, A[:200]), {}, "media[1]"),
        (f"{IMAGE} x", (b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(64),), {}, "media[0]"),
        (f"{IMAGE} x", (eyes.png(np.zeros((1, 20_000, 3), np.uint8)),), {}, "media[0]"),
        (f"{IMAGE} {IMAGE} x", (A, eyes.webp(A)[:200]), {}, "media[1]"),
        (f"{IMAGE} {IMAGE} x", (A, WEBP_BOMB), {}, "media[1]"),
        ("x", (A,), {}, "media[0]"),
        (f"{IMAGE} {IMAGE} x", (A,), {}, "media[0]"),
        (f"{IMAGE} x", (A,), {"prompt_logprobs": 1}, "prompt"),
    ],
)
def test_refused_by_name(
    seeing: Seeing, prompt: str, images: tuple[bytes, ...], more: dict[str, Any], param: str
) -> None:
    failed = seeing.say(prompt, *images, **more).failed
    assert failed is not None
    assert (failed.code, failed.param) == ("bad_request", param)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 400), (400, 1), (1000, 30)])
def test_odd_sizes_are_read(seeing: Seeing, width: int, height: int) -> None:
    answer = seeing.say(f"odd {IMAGE} size", eyes.picture(5, width, height), max_tokens=2)
    assert answer.done.completion_tokens == 2


def test_more_images_than_the_context_holds_are_refused(seeing: Seeing) -> None:
    count = seeing.engine.ready.context_tokens // 16 + 1
    failed = seeing.say(IMAGE * count + " x", *[A] * count).failed
    assert failed is not None
    assert failed.code == "context_length_exceeded"


def test_cancelled_before_it_is_read_leaves_others_alone(seeing: Seeing) -> None:
    expected = seeing.say(f"this {IMAGE} one", B, cache_prompt=False).tokens
    gone = [
        seeing.engine.start(f"{IMAGE} never {at}", media=(eyes.picture(40 + at),), max_tokens=400)
        for at in range(5)
    ]
    for number in gone:
        seeing.engine.send(protocol.Cancel(number))
    assert seeing.say(f"this {IMAGE} one", B, cache_prompt=False).tokens == expected
    assert seeing.engine.status.running == 0


def test_model_without_projector_refuses(tmp_path: Path) -> None:
    model, projector = files("llava", tmp_path)
    with EngineProcess(model, **EXACT) as engine:
        failed = engine.generate(f"{IMAGE} x", media=(A,)).failed
        assert failed is not None
        assert (failed.code, failed.param) == ("bad_request", "media[0]")
    eyes.qwen2_eyes(projector)
    with EngineProcess(model, projector_path=str(projector), **EXACT) as engine:
        assert engine.generate("x", max_tokens=1).failed is None
    with pytest.raises(EngineDied, match="projector"):
        EngineProcess(model, projector_path=str(model), **EXACT)


def test_what_is_damaged_is_handed_to_no_other_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mtmd would try ffmpeg on it, where there is one."""
    for name in ("ffprobe", "ffmpeg"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    model, projector = files("llava", tmp_path)
    with EngineProcess(model, projector_path=str(projector), **EXACT) as engine:
        failed = engine.generate(f"{IMAGE} x", media=(A[:200],)).failed
    assert failed is not None
    assert (failed.code, failed.param) == ("bad_request", "media[0]")
    assert "damaged" in failed.message
    assert not (tmp_path / "ran").exists()
