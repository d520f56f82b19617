"""The Python client that every command uses: thin over httpx, synchronous, with typed errors."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from llamaleon_clients.errors import BadInput, ServerRefused, ServerUnreachable
from llamaleon_clients.words import say

Json = dict[str, Any]
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def connection(url: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """Arguments of httpx's clients.

    `url` with or without `/v1`; `api_key` None: $LLAMALEON_API_KEY, else none.

    Raises:
        BadInput: `url` is no server's address, or the key cannot stand in a header.
    """
    base_url = url.rstrip("/").removesuffix("/v1")
    try:
        parsed = httpx.URL(base_url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadInput(say("{url} is no server's address: write it as http://HOST:PORT.", url=url))
    key = api_key or os.environ.get("LLAMALEON_API_KEY")
    if key and not (key.isascii() and key.isprintable()):
        raise BadInput(say("The API key has characters that no key has."))
    return {
        "base_url": base_url,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(timeout_s, connect=5.0),
        # A proxy of the environment cannot reach this machine's loopback.
        "trust_env": parsed.host not in LOOPBACK,
        "verify": parsed.scheme == "https",  # reading the CA bundle costs 50 ms that plain HTTP never needs
    }


class Client:
    """One server. An error for an answer raises `ServerRefused`, no answer `ServerUnreachable`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`api_key` None: $LLAMALEON_API_KEY, else none. Raises: BadInput."""
        arguments = connection(url, api_key, timeout_s)
        self.url: str = arguments["base_url"]
        self._http = httpx.Client(**arguments, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ------------------------------------------------------------ models

    def health(self) -> Json:
        return self._json("GET", "/health")

    def models(self) -> list[Json]:
        return list(self._json("GET", "/v1/models")["data"])

    def model(self, name: str) -> Json:
        return self._json("GET", f"/v1/models/{_segment(name)}")

    def show(self, name: str) -> Json:
        return self._json("GET", f"/llamaleon/models/{_segment(name)}")

    def modelfile(self, name: str) -> str:
        """What would make this model again."""
        answer = self._json("GET", f"/llamaleon/models/{_segment(name)}", params={"modelfile": 1})
        return str(answer["modelfile"])

    def create_model(self, name: str, modelfile: str, folder: Path | None = None) -> Json:
        """`folder`: what relative paths in the Modelfile begin from, on the server's disk."""
        body = _present(name=name, modelfile=modelfile, folder=None if folder is None else str(folder))
        return self._json("POST", "/llamaleon/models", json=body)

    def copy_model(self, source: str, destination: str) -> Json:
        return self._json("POST", "/llamaleon/copy", json={"source": source, "destination": destination})

    def remove_model(self, name: str) -> None:
        """Of a made model; its base and its adapters stay."""
        self._send("DELETE", f"/v1/models/{_segment(name)}")

    def ps(self) -> Json:
        return self._json("GET", "/llamaleon/ps")

    def add_base(self, path: Path, name: str | None = None, projector: Path | None = None) -> Json:
        eyes = None if projector is None else str(projector.resolve())
        body = _present(path=str(path.resolve()), name=name, projector=eyes)
        return self._json("POST", "/llamaleon/bases", json=body)

    def remove_base(self, name: str) -> None:
        self._send("DELETE", f"/llamaleon/bases/{_segment(name)}")

    def add_adapter(self, name: str, path: Path, *, base: str | None = None, replace: bool = False) -> str:
        body = _present(
            lora_name=name, lora_path=str(path.resolve()), base_model_name=base, load_inplace=replace or None
        )
        return self._send("POST", "/v1/load_lora_adapter", json=body).text

    def remove_adapter(self, name: str) -> None:
        """Every version of it; also of one that no longer fits its base."""
        self._send("POST", "/v1/unload_lora_adapter", json={"lora_name": name})

    def pull(self, name: str, *, token: str | None = None, mirror: str | None = None) -> Iterator[Json]:
        """Fetch a model from a hub or registry: its progress as it comes. Closing the iterator ends it."""
        body = {"model": name, **_present(token=token, mirror=mirror)}
        with reachable(self.url), self._http.stream("POST", "/llamaleon/pull", json=body) as response:
            if response.is_error:
                response.read()
                raise refused(response)
            yield from _sse(response)

    def search(self, text: str, limit: int = 10) -> list[Json]:
        return list(self._json("GET", "/llamaleon/search", params={"q": text, "limit": limit})["data"])

    def pin(self, name: str) -> Json:
        return self._json("POST", f"/llamaleon/adapters/{_segment(name)}/pin")

    def unpin(self, name: str) -> Json:
        return self._json("POST", f"/llamaleon/adapters/{_segment(name)}/unpin")

    def push(self, **body: Any) -> Json:
        """An adapter to a hub. `body`: fields of the request; None is absent."""
        return self._json("POST", "/llamaleon/push", json=_present(**body))

    def pull_adapter(self, **body: Any) -> Json:
        """An adapter from a hub, as an object of the listing of adapters."""
        return self._json("POST", "/llamaleon/pull_adapter", json=_present(**body))

    def promote(self, name: str) -> Json:
        return self._json("POST", f"/llamaleon/adapters/{_segment(name)}/promote")

    def rollback(self, name: str) -> Json:
        return self._json("POST", f"/llamaleon/adapters/{_segment(name)}/rollback")

    def versions(self, name: str) -> Json:
        return self._json("GET", f"/llamaleon/adapters/{_segment(name)}/versions")

    # ------------------------------------------------------------ fine-tuning

    def upload(self, path: Path) -> Json:
        with path.open("rb") as file:
            return self._json(
                "POST", "/v1/files", files={"file": (path.name, file)}, data={"purpose": "fine-tune"}
            )

    def hub_dataset(self, name: str, *, token: str | None = None) -> Json:
        """The server fetches it, and answers with the file that it became."""
        return self._json("POST", "/v1/datasets/hub", json=_present(name=name, token=token))

    def check_dataset(self, body: Json) -> Json:
        return self._json("POST", "/v1/datasets/check", json=body)

    def remove_file(self, file_id: str) -> None:
        self._send("DELETE", f"/v1/files/{_segment(file_id)}")

    def create_job(self, body: Json) -> Json:
        return self._json("POST", "/v1/fine_tuning/jobs", json=body)

    def job(self, job_id: str) -> Json:
        return self._json("GET", f"/v1/fine_tuning/jobs/{_segment(job_id)}")

    def jobs(self, limit: int = 20) -> list[Json]:
        return list(self._json("GET", "/v1/fine_tuning/jobs", params={"limit": limit})["data"])

    def cancel_job(self, job_id: str) -> Json:
        return self._json("POST", f"/v1/fine_tuning/jobs/{_segment(job_id)}/cancel")

    def pause_job(self, job_id: str) -> Json:
        return self._json("POST", f"/v1/fine_tuning/jobs/{_segment(job_id)}/pause")

    def resume_job(self, job_id: str) -> Json:
        return self._json("POST", f"/v1/fine_tuning/jobs/{_segment(job_id)}/resume")

    def job_report(self, job_id: str, language: str) -> str:
        """A page of HTML, in English (`en`) or Spanish (`es`)."""
        path = f"/v1/fine_tuning/jobs/{_segment(job_id)}/report"
        return self._send("GET", path, params={"lang": language}).text

    def evaluate(self, body: Json) -> Iterator[Json]:
        """A model on rows: the progress as it comes, and the result. Closing the iterator ends it."""
        body = {**body, "stream": True}
        with reachable(self.url), self._http.stream("POST", "/v1/evaluations", json=body) as response:
            if response.is_error:
                response.read()
                raise refused(response)
            yield from _sse(response)

    def events_since(self, job_id: str, last_id: str | None) -> list[Json]:
        """Events that came after `last_id` (None: all), oldest first. The server lists newest first."""
        found: list[Json] = []
        after: str | None = None
        while True:
            params = _present(limit=100, after=after)
            page = self._json("GET", f"/v1/fine_tuning/jobs/{_segment(job_id)}/events", params=params)
            for event in page["data"]:
                if event["id"] == last_id:
                    return found[::-1]
                found.append(event)
            if not page["has_more"] or not page["data"]:
                return found[::-1]
            after = page["data"][-1]["id"]

    # ------------------------------------------------------------ stored completions

    def stored(self, model: str | None, metadata: dict[str, str] | None, limit: int) -> list[Json]:
        """Newest first."""
        pairs = {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        params = _present(model=model, limit=limit, order="desc") | pairs
        return list(self._json("GET", "/v1/chat/completions", params=params)["data"])

    def remove_stored(self, name: str) -> None:
        self._send("DELETE", f"/v1/chat/completions/{_segment(name)}")

    def export_stored(self, body: Json) -> Json:
        return self._json("POST", "/v1/datasets/stored_completions", json=body)

    def file_content(self, file_id: str) -> bytes:
        return self._send("GET", f"/v1/files/{_segment(file_id)}/content").content

    # ------------------------------------------------------------ chat

    def chat_answer(self, model: str, messages: list[Json], **settings: Any) -> Json:
        """The whole answer, as OpenAI's clients see it. `settings`: fields of the request; None is absent."""
        body = {"model": model, "messages": messages, **_present(**settings)}
        return self._json("POST", "/v1/chat/completions", json=body)

    def chat(self, model: str, messages: list[Json], **settings: Any) -> str:
        return str(self.chat_answer(model, messages, **settings)["choices"][0]["message"]["content"] or "")

    def stream_deltas(self, model: str, messages: list[Json], **settings: Any) -> Generator[Json, None, None]:
        """`delta` objects of the answer as they come. Closing the iterator ends the request on the server."""
        body = {"model": model, "messages": messages, "stream": True, **_present(**settings)}
        with reachable(self.url), self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise refused(response)
            for chunk in _sse(response):
                for choice in chunk.get("choices", ()):
                    yield choice["delta"]

    # ------------------------------------------------------------ transport

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with reachable(self.url):
            response = self._http.request(method, path, **arguments)
        if response.is_error:
            raise refused(response)
        return response

    def _json(self, method: str, path: str, **arguments: Any) -> Json:
        response = self._send(method, path, **arguments)
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ServerUnreachable(
                self.url, say("{path} is not a Llamaleon answer; another program listens there", path=path)
            )
        return body


def _segment(name: str) -> str:
    """A name as one path segment: bases may contain `/` and `:`."""
    return quote(name, safe="")


def _present(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """The one translation of httpx's failures."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise ServerUnreachable(url, say("timed out")) from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ServerUnreachable(url, str(error) or type(error).__name__) from error


def refused(response: httpx.Response) -> ServerRefused:
    try:
        body = response.json()
    except ValueError:
        body = response.text
    return ServerRefused.from_body(response.status_code, body)


def _sse(response: httpx.Response) -> Iterator[Json]:
    """Data of server-sent events until `[DONE]`; an error event raises.

    Split on line feeds of the bytes: `iter_lines` also splits at U+2028 and U+0085, which an answer may
    contain.
    """
    rest = b""
    for piece in response.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[len(b"data:") :].strip()
            if data == b"[DONE]":
                return
            chunk = json.loads(data)
            if "error" in chunk:
                raise ServerRefused.from_body(response.status_code, chunk)
            yield chunk
