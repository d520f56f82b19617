"""One exception tree and one table: every failure leaves as OpenAI's error body with its status code.

LlamaleonError
├── BadRequest            400 invalid_request_error   (names the field in `param`)
│   ├── ContextLengthExceeded  400 context_length_exceeded
│   └── AdapterRefused    400 adapter_refused
├── Unauthorized          401 invalid_api_key         (WWW-Authenticate)
├── Forbidden             403 insufficient_scope
│   ├── HostRefused       403 host_not_allowed        (DNS rebinding)
│   └── OriginRefused     403 origin_not_allowed      (another site's script)
├── NotFound              404
│   └── ModelNotFound     404 model_not_found         (with the nearest names)
├── BodyTooSlow           408 request_timeout         (the body did not arrive in time)
├── Conflict              409
├── TooLarge              413
├── QueueFull             429 queue_full              (Retry-After)
├── HubRefused            403 hub_refused             (gated or private: what to do)
├── DownloadFailed        502 download_failed         (what came is kept for the next try)
│   └── UploadFailed      502 upload_failed
├── EngineFailed          500 engine_error
├── EngineUnavailable     503 engine_unavailable      (Retry-After)
├── AnswerTooSlow         504 answer_timeout          (nothing was answered in time)
└── StorageFull           507 storage_full            (nothing was recorded)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class LlamaleonError(Exception):
    """Base of every error that a client may see. Each class owns its status, `type` and `code`."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> dict[str, Any]:
        """OpenAI's error body; the same object is the data of an SSE error event."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


class BadRequest(LlamaleonError):
    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(BadRequest):
    code = "context_length_exceeded"


class AdapterRefused(BadRequest):
    """The adapter cannot be expressed, or does not belong to this base: the message names the field."""

    code = "adapter_refused"


class NotFound(LlamaleonError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"

    def __init__(self, name: str, nearest: Sequence[str] = ()) -> None:
        hint = f" Nearest names: {', '.join(nearest)}." if nearest else ""
        super().__init__(f"The model `{name}` does not exist.{hint}", param="model")
        self.nearest = tuple(nearest)


class Unauthorized(LlamaleonError):
    """No key, or one that this server does not know."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(LlamaleonError):
    """The key is known, but may not do this; the message says which scope or option would."""

    status = 403
    type = "invalid_request_error"
    code = "insufficient_scope"


class HostRefused(Forbidden):
    code = "host_not_allowed"


class OriginRefused(Forbidden):
    code = "origin_not_allowed"


class BodyTooSlow(LlamaleonError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class Conflict(LlamaleonError):
    status = 409
    type = "invalid_request_error"
    code = "conflict"


class TooLarge(LlamaleonError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class QueueFull(LlamaleonError):
    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    retry_after_s = 1


class HubRefused(LlamaleonError):
    """A hub or registry knows what was asked for and does not give it to us."""

    status = 403
    type = "invalid_request_error"
    code = "hub_refused"


class DownloadFailed(LlamaleonError):
    """A hub or registry could not be reached, failed, or sent something else than it had promised."""

    status = 502
    code = "download_failed"


class UploadFailed(DownloadFailed):
    """The hub could not be reached, or did not take what was sent."""

    code = "upload_failed"


class EngineFailed(LlamaleonError):
    """The engine answered with a failure of its own, or died while this request was running."""

    code = "engine_error"


class EngineUnavailable(LlamaleonError):
    """No engine can take the request now; the client may try again."""

    status = 503
    code = "engine_unavailable"
    retry_after_s = 2


class AnswerTooSlow(LlamaleonError):
    status = 504
    code = "answer_timeout"

    def headers(self) -> dict[str, str]:
        return {"x-should-retry": "false"}  # what took too long once would again


class StorageFull(LlamaleonError):
    """The disk is full: nothing was recorded, and trying again does not help."""

    status = 507
    code = "storage_full"

    def headers(self) -> dict[str, str]:
        return {"x-should-retry": "false"}  # openai's clients would otherwise repeat the upload


# What a client sees for each `engine.protocol.FailedCode`; a test proves the table total.
ENGINE_FAILURES: dict[str, type[LlamaleonError]] = {
    "context_length_exceeded": ContextLengthExceeded,
    "queue_full": QueueFull,
    "adapter_refused": AdapterRefused,
    "adapter_unknown": EngineFailed,  # we load adapters before using them: never the client's mistake
    "bad_request": BadRequest,
    "engine_error": EngineFailed,
}
