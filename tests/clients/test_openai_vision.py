"""The real `openai` package shows images to a model whose projector lies beside its file."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from tests.server import RunningServer
from tests.tiny import eyes, gguf_export, vocabulary
from tests.tiny.families import random_model

SEES, BLIND = "seer", "nano"
A, B = eyes.picture(1), eyes.picture(2, 90, 30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("vision")
    gguf_export.write(random_model("gemma3"), folder / f"{SEES}.gguf", chat_template=vocabulary.CHATML)
    eyes.gemma3_eyes(folder / f"mmproj-{SEES}-f32.gguf")
    eyes.qwen2_eyes(folder / "mmproj-broken.gguf").write_bytes(b"GGUF")  # somebody else's, half copied
    arguments = ["--model", str(folder / f"{SEES}.gguf"), "--kv-type", "f32", "--no-flash-attention"]
    with RunningServer(folder / "home", arguments) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def shown(*images: bytes, text: str = "What is this?") -> list[Any]:
    parts: list[Any] = [{"type": "text", "text": text}]
    for image in images:
        kind = "webp" if image.startswith(b"RIFF") else "png"
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return [{"role": "user", "content": parts}]


def ask(client: OpenAI, *images: bytes, model: str = SEES, **more: Any) -> Any:
    return client.chat.completions.create(
        model=model, messages=shown(*images), temperature=0, max_tokens=12, logprobs=True, **more
    )


def first_logprob(answer: Any) -> float:
    return float(answer.choices[0].logprobs.content[0].logprob)


def test_image_counts_and_changes_the_answer(client: OpenAI) -> None:
    blind, one, other, again = (ask(client, *images) for images in ((), (A,), (B,), (A,)))
    assert one.usage.prompt_tokens >= blind.usage.prompt_tokens + 16
    assert first_logprob(one) == pytest.approx(first_logprob(again), abs=1e-4)
    assert abs(first_logprob(one) - first_logprob(other)) > 1e-3
    assert again.usage.prompt_tokens_details.cached_tokens > one.usage.prompt_tokens - 3
    assert ask(client, A, B).usage.prompt_tokens > one.usage.prompt_tokens + 16


def test_webp_is_the_same_picture(client: OpenAI) -> None:
    png, webp = ask(client, A), ask(client, eyes.webp(A))
    assert webp.usage.prompt_tokens == png.usage.prompt_tokens
    assert webp.usage.prompt_tokens_details.cached_tokens > png.usage.prompt_tokens - 3
    assert webp.choices[0].message.content == png.choices[0].message.content


def test_streamed_says_the_same(client: OpenAI) -> None:
    whole = ask(client, A)
    chunks = client.chat.completions.create(
        model=SEES, messages=shown(A), temperature=0, max_tokens=12, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == (whole.choices[0].message.content or "")


@pytest.mark.parametrize(
    ("images", "model"),
    [((b"no image at all",), SEES), ((eyes.webp(A)[:100],), SEES), ((), BLIND)],
)
def test_refused_with_the_place(client: OpenAI, images: tuple[bytes, ...], model: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, A, *images, model=model)
    assert error.value.param == f"messages[0].content[{1 + len(images)}]"


def test_model_says_that_it_sees(server: RunningServer) -> None:
    shown = httpx.post(f"{server.url}/api/show", json={"model": SEES}, timeout=30).json()
    assert "vision" in shown["capabilities"]


def test_responses_see_the_same_and_remember_it(client: OpenAI) -> None:
    url = f"data:image/png;base64,{base64.b64encode(A).decode()}"
    parts: Any = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": url}]
    more: Any = {"model": SEES, "temperature": 0, "max_output_tokens": 12}
    first = client.responses.create(input=[{"role": "user", "content": parts}], **more)
    chat = ask(client, A)
    assert first.output_text == chat.choices[0].message.content
    assert first.usage is not None
    assert first.usage.input_tokens == chat.usage.prompt_tokens
    second = client.responses.create(input="And?", previous_response_id=first.id, **more)
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(input=[{"role": "user", "content": parts}], **{**more, "model": BLIND})
    assert error.value.param == "input"


def in_other_words(protocol: str, image: bytes) -> tuple[str, dict[str, Any]]:
    """The same question in the words of another protocol: route and body."""
    data, text = base64.b64encode(image).decode(), "What is this?"
    url = f"data:image/png;base64,{data}"
    source = {"type": "base64", "media_type": "image/png", "data": data}
    parts: dict[str, list[Any]] = {
        "anthropic": [{"type": "text", "text": text}, {"type": "image", "source": source}],
        "responses": [{"type": "input_text", "text": text}, {"type": "input_image", "image_url": url}],
    }
    if protocol == "anthropic":
        messages = [{"role": "user", "content": parts[protocol]}]
        return "/v1/messages", {"max_tokens": 12, "messages": messages}
    if protocol == "responses":
        said = [{"role": "user", "content": parts[protocol]}]
        return "/v1/responses", {"max_output_tokens": 16, "input": said}
    said = [{"role": "user", "content": text, "images": [data]}]
    return "/api/chat", {"messages": said, "stream": False, "options": {"num_predict": 12}}


def prompt_tokens(protocol: str, answer: Any) -> int:
    if protocol == "ollama":
        return int(answer["prompt_eval_count"])
    usage = answer["usage"]
    return int(usage["input_tokens"]) + int(usage.get("cache_read_input_tokens") or 0)


@pytest.mark.parametrize("protocol", ["anthropic", "responses", "ollama"])
def test_other_protocols_show_the_same_image(server: RunningServer, client: OpenAI, protocol: str) -> None:
    expected = ask(client, A).usage.prompt_tokens
    route, body = in_other_words(protocol, A)
    answer = httpx.post(f"{server.url}{route}", json={"model": SEES, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert abs(prompt_tokens(protocol, answer.json()) - expected) <= 1
    route, body = in_other_words(protocol, b"no image")
    refused = httpx.post(f"{server.url}{route}", json={"model": SEES, **body}, timeout=60)
    assert refused.status_code == 400, refused.text
    route, body = in_other_words(protocol, A)
    blind = httpx.post(f"{server.url}{route}", json={"model": BLIND, **body}, timeout=60)
    assert blind.status_code == 400, blind.text
