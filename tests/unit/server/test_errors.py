"""The error tree, and the one translation of what engines say."""

from __future__ import annotations

import typing

import pytest

from llamaleon_server.engine.protocol import FailedCode
from llamaleon_server.errors import ENGINE_FAILURES, LlamaleonError, ModelNotFound, QueueFull


def everything(kind: type[LlamaleonError]) -> list[type[LlamaleonError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in everything(below))]


def test_the_table_of_engine_failures_is_total() -> None:
    assert set(ENGINE_FAILURES) == set(typing.get_args(FailedCode))


@pytest.mark.parametrize("kind", everything(LlamaleonError))
def test_every_class_is_an_http_error_with_openais_type(kind: type[LlamaleonError]) -> None:
    assert 400 <= kind.status < 600
    expected = "server_error" if kind.status >= 500 else "invalid_request_error"
    assert kind.type == ("rate_limit_error" if kind.status == 429 else expected)


def test_the_body_is_openais() -> None:
    error = ModelNotFound("x", ["y"])
    assert error.body() == {
        "error": {
            "message": "The model `x` does not exist. Nearest names: y.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    assert QueueFull("full").headers() == {"Retry-After": "1"}
