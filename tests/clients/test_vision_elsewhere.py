"""The real `anthropic` and `ollama` packages show images to a model that sees, and to one that does not."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import pytest
from tests.server import RunningServer
from tests.tiny import eyes, gguf_export, vocabulary
from tests.tiny.families import random_model

SEES, BLIND = "seer", "nano"
IMAGE = eyes.picture(1)
WEBP = eyes.webp(IMAGE)
IMAGE_TOKENS = 16  # at the least


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("vision") / "models"
    folder.mkdir()
    gguf_export.write(random_model("gemma3"), folder / f"{SEES}.gguf", chat_template=vocabulary.CHATML)
    eyes.gemma3_eyes(folder / f"mmproj-{SEES}-f32.gguf")
    with RunningServer(folder / "home", ["--model", str(folder / f"{SEES}.gguf")]) as running:
        yield running


def block(image: bytes, kind: str = "png") -> Any:
    data = base64.b64encode(image).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": f"image/{kind}", "data": data}}


def test_anthropic(server: RunningServer) -> None:
    text: Any = {"type": "text", "text": "What is this?"}
    with anthropic.Anthropic(base_url=server.url, api_key="unused", max_retries=0) as client:

        def ask(*content: Any, model: str = SEES) -> Any:
            messages: Any = [{"role": "user", "content": list(content)}]
            return client.messages.create(model=model, max_tokens=5, messages=messages)

        def prompt(answer: Any) -> int:
            return int(answer.usage.input_tokens + answer.usage.cache_read_input_tokens)

        assert prompt(ask(block(IMAGE), text)) >= prompt(ask(text)) + IMAGE_TOKENS
        assert prompt(ask(block(WEBP, "webp"), text)) == prompt(ask(block(IMAGE), text))
        with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[1\]"):
            ask(text, block(IMAGE), model=BLIND)
        with pytest.raises(anthropic.BadRequestError, match="image"):
            ask(text, block(b"no image at all"))


def test_ollama(server: RunningServer) -> None:
    with ollama.Client(host=server.url) as client:

        def ask(*images: bytes, model: str = SEES) -> Any:
            message = {"role": "user", "content": "What is this?", "images": list(images)}
            return client.chat(model, messages=[message], options={"num_predict": 5})

        assert ask(IMAGE).prompt_eval_count >= ask().prompt_eval_count + IMAGE_TOKENS
        assert ask(WEBP).prompt_eval_count == ask(IMAGE).prompt_eval_count
        seen = client.generate(SEES, "What is this?", images=[IMAGE], options={"num_predict": 5})
        assert seen.prompt_eval_count == ask(IMAGE).prompt_eval_count
        with pytest.raises(ollama.ResponseError, match=r"messages\[0\].images\[0\]"):
            ask(IMAGE, model=BLIND)
        assert "vision" in (client.show(SEES).capabilities or [])
        assert "vision" not in (client.show(BLIND).capabilities or [])
