"""A multipart upload streamed to disk as it arrives; the file is never held in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.files import Upload

MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 64  # more than any client sends
FILE_FIELD = "file"


class Form(Struct, frozen=True):
    fields: dict[str, str]
    filename: str
    upload: Upload


class _Receiver:
    """Collects what the parser calls back with; the pieces of the file wait in `pending` to be written."""

    def __init__(self) -> None:
        self.fields: dict[str, bytearray] = {}
        self.filename: str | None = None
        self.pending: list[bytes] = []
        self._header = ("", "")
        self._disposition = b""
        self._name = ""

    def on_part_begin(self) -> None:
        self._header, self._disposition, self._name = ("", ""), b"", ""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end].decode("latin-1"), "")

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end].decode("latin-1"))

    def on_header_end(self) -> None:
        if self._header[0].lower() == "content-disposition":
            self._disposition = self._header[1].encode("latin-1")
        self._header = ("", "")

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if name is None:
            raise BadRequest("A part of the form has no name.")
        self._name = name.decode(errors="replace")
        if self._name == FILE_FIELD:
            if self.filename is not None:
                raise BadRequest("Upload one `file` at a time.", param=FILE_FIELD)
            self.filename = options.get(b"filename", b"upload").decode(errors="replace")
            return
        self.fields[self._name] = bytearray()
        if len(self.fields) > MAX_FIELDS:
            raise BadRequest(f"The form has more than {MAX_FIELDS} fields.")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE_FIELD:
            self.pending.append(data[start:end])
            return
        field = self.fields[self._name]
        field += data[start:end]
        if len(field) > MAX_FIELD_BYTES:
            raise BadRequest(f"`{self._name}` is longer than {MAX_FIELD_BYTES} bytes.", param=self._name)

    def take(self) -> bytes:
        data = b"".join(self.pending)
        self.pending.clear()
        return data


async def receive(request: Request, start: Callable[[], Upload]) -> Form:
    """The whole form, the file written but not yet committed: commit or abort it.

    Raises:
        BadRequest: not a multipart form, or without a `file`.
        TooLarge, StorageFull: from the upload, which is then gone.
    """
    parser, receiver = _parser(request)
    upload = await asyncio.to_thread(start)
    try:
        async for chunk in request.stream():
            parser.write(chunk)
            if piece := receiver.take():
                await asyncio.to_thread(upload.write, piece)
        parser.finalize()
        if receiver.filename is None:
            raise BadRequest("`file` is required.", param=FILE_FIELD)
        fields = {name: value.decode(errors="replace") for name, value in receiver.fields.items()}
    except FormParserError as error:
        await asyncio.to_thread(upload.abort)
        raise BadRequest(f"The body is not a valid multipart form: {error}") from error
    except BaseException:
        upload.abort()
        raise
    return Form(fields, receiver.filename, upload)


def _parser(request: Request) -> tuple[MultipartParser, _Receiver]:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise BadRequest("The body must be multipart/form-data with `file` and `purpose`.", param=FILE_FIELD)
    receiver = _Receiver()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": receiver.on_part_begin,
                "on_part_data": receiver.on_part_data,
                "on_header_field": receiver.on_header_field,
                "on_header_value": receiver.on_header_value,
                "on_header_end": receiver.on_header_end,
                "on_headers_finished": receiver.on_headers_finished,
            },
        )
    except FormParserError as error:  # the boundary is too long
        raise BadRequest(f"The body is not a valid multipart form: {error}") from error
    return parser, receiver
