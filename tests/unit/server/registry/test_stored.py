"""Stored completions as rows."""

from __future__ import annotations

from llamaleon_server.registry.registry import Registry
from llamaleon_server.wire.chat_answer import AnswerMessage, Choice
from llamaleon_server.wire.stored import Exchange, StoredCompletion
from llamaleon_server.wire.usage import PromptDetails, Usage


def exchange(name: str, metadata: dict[str, str]) -> Exchange:
    completion = StoredCompletion(
        id=name,
        created=0,
        model="tiny",
        choices=[Choice(index=0, message=AnswerMessage(content="Hola"), logprobs=None, finish_reason="stop")],
        usage=Usage(
            prompt_tokens=1,
            completion_tokens=1,
            total_tokens=2,
            prompt_tokens_details=PromptDetails(cached_tokens=0),
        ),
        metadata=metadata,
    )
    return Exchange(completion=completion, messages=[])


def test_any_number_of_pairs_is_looked_for(registry: Registry) -> None:
    strange = {'it\'s "a" key.$[0]': "ñ\u2028", "b": ""}
    many = {str(at): "x" for at in range(16)}
    for name, metadata in (("strange", strange), ("many", many), ("none", {})):
        registry.stored.add(exchange(name, metadata))

    def found(metadata: dict[str, str]) -> list[str]:
        return [one.completion.id for one in registry.stored.page(metadata=metadata)[0]]

    assert found({}) == ["strange", "many", "none"]
    assert found(strange) == ["strange"]
    assert found({"b": ""}) == ["strange"]
    assert found(many) == ["many"]
    assert found({**many, "7": "y"}) == []
    assert found({str(at): "x" for at in range(5000)}) == [], "SQLite takes no expression as deep as this"
    assert found({"b": "", "7": "x"}) == []
