"""The hub's side of an upload: repositories, preupload, LFS objects and commits, as huggingface_hub asks.

Source: huggingface_hub, _commit_api.py and lfs.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.serving import Asked, Elsewhere, Handler, sha256

TOKEN = "hf_a-token-of-nobody"
REGULAR_BYTES = 10 << 20  # larger files go to LFS, and those that .gitattributes names
LFS_SUFFIXES = (".gguf", ".safetensors", ".bin")
NEXT_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


class UploadHub(Elsewhere):
    """Takes what `TOKEN` may write under `somebody/`."""

    def __init__(self) -> None:
        super().__init__()
        self.created: list[dict[str, Any]] = []
        self.commits: list[dict[str, Any]] = []
        self.sent: list[bytes] = []  # every body, to look for what must not be in it
        self.refuse_objects = False

    def receive(self, handler: UploadHandler, asked: Asked, body: bytes) -> None:
        """POST and PUT."""
        self.asked.append(asked)
        self.sent.append(body)
        parts = unquote(asked.path).strip("/").split("/")
        if parts[:1] == ["objects"]:  # the storage behind the hub: signed, without the token
            self._store(handler, asked, parts[1], body)
        elif asked.headers.get("authorization") != f"Bearer {TOKEN}":
            handler.send_json(401, {"error": "Invalid credentials"})
        else:
            self._answer(handler, parts, body)

    def _answer(self, handler: UploadHandler, parts: list[str], body: bytes) -> None:
        match parts:
            case ["api", "repos", "create"]:
                self._create(handler, json.loads(body))
            case ["api", "validate-yaml"]:
                handler.send_json(200, {"errors": [], "warnings": []})
            case ["api", "models", owner, repo, "preupload", _]:
                self._modes(handler, f"{owner}/{repo}", json.loads(body))
            case ["api", "models", owner, repo, "commit", revision]:
                self._commit(handler, f"{owner}/{repo}", revision, body)
            case [_, repo, "info", "lfs", "objects", "batch"] if repo.endswith(".git"):
                self._batch(handler, json.loads(body))
            case _:
                handler.send_json(404, {"error": "Not found"})

    def _create(self, handler: UploadHandler, asked: dict[str, Any]) -> None:
        self.created.append(asked)
        owner, name = asked.get("organization") or "somebody", asked["name"]
        repo = name if "/" in name else f"{owner}/{name}"
        if not repo.startswith("somebody/"):
            handler.send_json(
                403, {"error": "You don't have the rights to create a model under this namespace"}
            )
        elif repo in self.repos:
            url = f"{self.url}/{repo}"
            handler.send_json(409, {"error": "You already created this model repo", "url": url})
        else:
            self.repos[repo] = {}
            handler.send_json(200, {"url": f"{self.url}/{repo}", "name": repo, "id": "1"})

    def _modes(self, handler: UploadHandler, repo: str, asked: dict[str, Any]) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for file in asked["files"]
        ]
        handler.send_json(200, {"files": files, "commitOid": self.commit})

    def _batch(self, handler: UploadHandler, asked: dict[str, Any]) -> None:
        assert asked["operation"] == "upload"
        objects = []
        for one in asked["objects"]:
            href = f"http://localhost:{self.port}/objects/{one['oid']}?signature=secret"
            entry: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.blobs:
                entry["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(entry)
        handler.send_json(200, {"transfer": "basic", "objects": objects})

    def _store(self, handler: UploadHandler, asked: Asked, oid: str, body: bytes) -> None:
        if self.refuse_objects:
            handler.send_json(403, {"error": "expired"})
            return
        assert "authorization" not in asked.headers
        assert hashlib.sha256(body).hexdigest() == oid
        self.blobs[oid] = body
        handler.send_json(200, {})

    def _commit(self, handler: UploadHandler, repo: str, revision: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        files = dict(self.repos[repo])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                self.blobs[sha256(content)] = content
                files[value["path"]] = content
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]  # a KeyError: never uploaded
        self.repos[repo] = files
        self.commit = NEXT_COMMIT
        self.commits.append({"repo": repo, "revision": revision, **header})
        page = f"{self.url}/{repo}/commit/{NEXT_COMMIT}"
        handler.send_json(200, {"success": True, "commitUrl": page, "commitOid": NEXT_COMMIT})


class UploadHandler(Handler):
    elsewhere: UploadHub

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._body(headers)
        self.elsewhere.receive(self, Asked(self.command, url.path, parse_qs(url.query), headers), body)

    do_PUT = do_POST

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", "0")))
        pieces = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)


@contextmanager
def upload_hub() -> Iterator[UploadHub]:
    hub = UploadHub()
    handler = type("Bound", (UploadHandler,), {"elsewhere": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
