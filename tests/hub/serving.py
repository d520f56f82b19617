"""A real HTTP server that answers and fails as the Hugging Face hub, an Ollama registry and their CDN do."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


@dataclass
class Fault:
    """What goes wrong with the next request for a blob."""

    status: int | None = None
    cut_after: int | None = None  # bytes of the body, then the connection ends
    no_ranges: bool = False
    wrong_bytes: bool = False
    pause: threading.Event | None = None  # waited for after half of the body
    headers: dict[str, str] = field(default_factory=dict)


class Elsewhere:
    """All of it on one socket. The CDN is the same one as `localhost`, another host to clients."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[Asked] = []
        self.blobs: dict[str, bytes] = {}
        self.commit = COMMIT
        self.faults: list[Fault] = []  # of blobs, one for each request, oldest first
        self.listing_faults: list[int] = []  # status codes of the next listings and manifests
        self.repos: dict[str, dict[str, bytes]] = {}
        self.digests: dict[tuple[str, str], str] = {}  # (repo, path) -> a checksum that is not the content's
        self.gated: set[str] = set()
        self.private: dict[str, str] = {}  # repo -> token
        self.datasets: dict[tuple[str, str], dict[str, bytes]] = {}  # (repo, revision) -> files
        self.cards: dict[str, dict[str, Any]] = {}  # of data sets
        self.manifests: dict[str, bytes] = {}  # namespace/name/tag
        self.redirects = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add_repo(self, repo: str, **files: bytes) -> None:
        self.put(repo, {f"{name}.gguf": content for name, content in files.items()})

    def put(self, repo: str, files: dict[str, bytes]) -> None:
        self.repos[repo] = files
        for content in files.values():
            self.blobs[sha256(content)] = content

    def put_dataset(self, repo: str, files: dict[str, bytes], revision: str = "main") -> None:
        self.datasets[repo, revision] = files
        for content in files.values():
            self.blobs[sha256(content)] = content

    def add_model(self, name: str, layers: dict[str, bytes]) -> None:
        """`name` as NAMESPACE/NAME/TAG, layers by kind."""
        listed = []
        for kind, content in layers.items():
            self.blobs[sha256(content)] = content
            listed.append(
                {
                    "mediaType": f"application/vnd.ollama.image.{kind.partition('-')[0]}",
                    "digest": f"sha256:{sha256(content)}",
                    "size": len(content),
                }
            )
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": listed}
        self.manifests[name] = json.dumps(manifest).encode()

    def blob_requests(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.path.startswith("/cdn/")]

    # ------------------------------------------------------------ answers

    def answer(self, handler: Handler, asked: Asked) -> None:
        self.asked.append(asked)
        parts = unquote(asked.path).strip("/").split("/")
        match parts:
            case ["api", "models"]:
                handler.send_json(200, self._search(asked))
            case ["api", "models", owner, repo, *_]:
                self._listing(handler, asked, f"{owner}/{repo}")
            case ["api", "datasets", owner, repo, *rest]:
                self._dataset(handler, asked, f"{owner}/{repo}", "/".join(rest[1:]) or "main")
            case ["datasets", owner, repo, "resolve", _, *path]:
                self._dataset_file(handler, asked, f"{owner}/{repo}", "/".join(path))
            case ["cdn", digest]:
                self._blob(handler, asked, digest)
            case ["v2", *name, "manifests", tag]:
                self._manifest(handler, asked, "/".join([*name, tag]))
            case ["v2", *_, "blobs", digest]:
                self._to_cdn(handler, asked, digest.removeprefix("sha256:"), {})
            case [owner, repo, "resolve", _, *path]:
                self._resolve(handler, asked, f"{owner}/{repo}", "/".join(path))
            case _:
                handler.send_json(404, {"error": "Not found"})

    def _refusal(self, asked: Asked, repo: str) -> tuple[int, str, str] | None:
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if repo not in self.repos:
            return 404, "RepoNotFound", "Repository not found"
        if self.private.get(repo, token) != token:
            return 401, "RepoNotFound", "Repository not found"
        return None

    def _listing(self, handler: Handler, asked: Asked, repo: str) -> None:
        if self.listing_faults:
            handler.send_json(self.listing_faults.pop(0), {"error": "out of order"})
            return
        if (refusal := self._refusal(asked, repo)) is not None:
            handler.send_json(refusal[0], {"error": refusal[2]}, {"X-Error-Code": refusal[1]})
            return
        handler.send_json(200, self._info(repo))

    def _siblings(self, repo: str, files: dict[str, bytes]) -> list[dict[str, Any]]:
        return [
            {
                "rfilename": path,
                "size": len(content),
                "blobId": "0" * 40,
                "lfs": {
                    "sha256": self.digests.get((repo, path), sha256(content)),
                    "size": len(content),
                    "pointerSize": 130,
                },
            }
            for path, content in files.items()
        ]

    def _info(self, repo: str) -> dict[str, Any]:
        return {
            "id": repo,
            "modelId": repo,
            "sha": self.commit,
            "downloads": 1000 - list(self.repos).index(repo),
            "likes": 3,
            "gated": "manual" if repo in self.gated else False,
            "private": repo in self.private,
            "tags": ["gguf"],
            "siblings": self._siblings(repo, self.repos[repo]),
        }

    def _dataset(self, handler: Handler, asked: Asked, repo: str, revision: str) -> None:
        if self.listing_faults:
            handler.send_json(self.listing_faults.pop(0), {"error": "out of order"})
            return
        known = any(one == repo for one, _ in self.datasets)
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if not known or self.private.get(repo, token) != token:
            handler.send_json(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif (repo, revision) not in self.datasets:
            handler.send_json(404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            listed = self._siblings(repo, self.datasets[repo, revision])
            card = self.cards.get(repo)
            body = {"id": repo, "sha": self.commit, "siblings": listed, "cardData": card, "tags": []}
            handler.send_json(200, body)

    def _dataset_file(self, handler: Handler, asked: Asked, repo: str, path: str) -> None:
        for (one, _), files in self.datasets.items():
            if one == repo and path in files:
                self._to_cdn(handler, asked, sha256(files[path]), {})
                return
        handler.send_json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})

    def _search(self, asked: Asked) -> list[dict[str, Any]]:
        text = asked.query.get("search", [""])[0].lower()
        limit = int(asked.query.get("limit", ["100"])[0])
        found = [self._info(repo) for repo in self.repos if text in repo.lower()]
        for repo in found:
            repo["siblings"] = [{"rfilename": one["rfilename"]} for one in repo["siblings"]]
        return found[:limit]

    def _resolve(self, handler: Handler, asked: Asked, repo: str, path: str) -> None:
        if (refusal := self._refusal(asked, repo)) is not None:
            handler.send_json(refusal[0], {"error": refusal[2]}, {"X-Error-Code": refusal[1]})
        elif repo in self.gated and "authorization" not in asked.headers:
            said = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {repo} is restricted."}
            handler.send_json(401, {"error": "restricted"}, said)
        elif path not in self.repos[repo]:
            handler.send_json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        else:
            content = self.repos[repo][path]
            digest = sha256(content)
            headers = {
                "X-Repo-Commit": self.commit,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(content)),
                "ETag": f'"{digest}"',
            }
            self._to_cdn(handler, asked, digest, headers)

    def _manifest(self, handler: Handler, asked: Asked, name: str) -> None:
        if self.listing_faults:
            handler.send_json(self.listing_faults.pop(0), {"errors": []})
        elif name not in self.manifests or asked.headers.get("accept") != MANIFEST_TYPE:
            handler.send_json(404, {"errors": [{"code": "MANIFEST_UNKNOWN"}]})
        else:
            handler.send(200, self.manifests[name], {"Content-Type": MANIFEST_TYPE})

    def _to_cdn(self, handler: Handler, asked: Asked, digest: str, headers: dict[str, str]) -> None:
        if not self.redirects:
            self._blob(handler, asked, digest)
            return
        place = f"http://localhost:{self.port}/cdn/{digest}?signature=secret"
        handler.send(307, b"", {**headers, "Location": place})

    def _blob(self, handler: Handler, asked: Asked, digest: str) -> None:
        fault = self.faults.pop(0) if self.faults else Fault()
        if fault.status is not None:
            handler.send_json(fault.status, {"error": "out of order"}, fault.headers)
            return
        content = self.blobs[digest]
        if fault.wrong_bytes:
            content = bytes(len(content))
        begin, status, headers = 0, 200, {"Accept-Ranges": "bytes"}
        wanted = asked.headers.get("range")
        if wanted is not None and not fault.no_ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
            if begin >= len(content):
                handler.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            status, headers["Content-Range"] = 206, f"bytes {begin}-{end}/{len(content)}"
            content = content[begin : end + 1]
        handler.send(status, content, headers, cut_after=fault.cut_after, pause=fault.pause)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    elsewhere: Elsewhere

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.elsewhere.answer(self, Asked(self.command, url.path, parse_qs(url.query), headers))

    do_HEAD = do_GET

    def send_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        *,
        cut_after: int | None = None,
        pause: threading.Event | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            if pause is not None:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                pause.wait(30)
                body = body[len(body) // 2 :]
            self.wfile.write(body if cut_after is None else body[:cut_after])
        except OSError:  # the client has gone: some of these tests do just that
            self.close_connection = True
        if cut_after is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the terminal of the tests."""


@contextmanager
def serving() -> Iterator[Elsewhere]:
    elsewhere = Elsewhere()
    handler: Callable[..., Any] = type("Bound", (Handler,), {"elsewhere": elsewhere})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    elsewhere.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield elsewhere
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
