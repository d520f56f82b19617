"""Where `timings` stand: in the answer or in its last chunk; of several choices, in each."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api import Api, events

USAGE = {"stream_options": {"include_usage": True}}


async def ask(api: Api, route: str, **more: Any) -> list[Any]:
    """The answer, or every chunk of it."""
    response = await (api.chat(**more) if route == "chat" else api.complete(**more))
    if not more.get("stream"):
        return [response.json()]
    *chunks, done = events(response)
    assert done == "[DONE]"
    return chunks


@pytest.mark.parametrize("route", ["chat", "text"])
async def test_an_answer_has_them_once(api: Api, route: str) -> None:
    [answer] = await ask(api, route)
    assert answer["timings"]["predicted_n"] == answer["usage"]["completion_tokens"]
    assert answer["timings"]["sequences_in_batch"] == 1.0
    assert "timings" not in answer["choices"][0]


@pytest.mark.parametrize("route", ["chat", "text"])
@pytest.mark.parametrize("more", [{}, USAGE], ids=["plain", "usage"])
async def test_a_stream_has_them_in_its_last_chunk(api: Api, route: str, more: dict[str, Any]) -> None:
    *chunks, last = await ask(api, route, stream=True, **more)
    assert last["timings"]["queue_ms"] == 1.0
    assert [chunk for chunk in chunks if "timings" in chunk] == []
    assert bool(last["choices"]) is not bool(more), "with usage, a chunk without choices follows"


@pytest.mark.parametrize("route", ["chat", "text"])
async def test_of_several_choices_each_has_its_own(api: Api, route: str) -> None:
    [answer] = await ask(api, route, n=2)
    assert "timings" not in answer
    assert [choice["timings"]["prompt_ms"] for choice in answer["choices"]] == [10.0, 10.0]
    chunks = await ask(api, route, n=2, stream=True, **USAGE)
    assert not [chunk for chunk in chunks if "timings" in chunk]
    timed = [choice for chunk in chunks for choice in chunk["choices"] if "timings" in choice]
    assert sorted(choice["index"] for choice in timed) == [0, 1]
    assert all(choice["finish_reason"] for choice in timed)
