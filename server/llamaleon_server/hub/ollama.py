"""Ollama's models: manifests and blobs, in a registry or in a store on this disk.

A store is a folder with `manifests/HOST/NAMESPACE/NAME/TAG` and `blobs/sha256-HEX`. What we pull goes into
one of our own, `$LLAMALEON_HOME/models/ollama`; Ollama's own is read, never written to.

Source: ollama, server/images.go, server/download.go, server/modelpath.go
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from llamaleon_server.errors import BadRequest, DownloadFailed, LlamaleonError, NotFound
from llamaleon_server.hub import places
from llamaleon_server.hub.download import RemoteFile, Transport, fetch, refused
from llamaleon_server.hub.names import OllamaName
from llamaleon_server.registry.blobs import write_synced
from llamaleon_server.registry.modelfile import AdapterLine, Modelfile
from llamaleon_server.registry.parameters import meaning_of

log = logging.getLogger(__name__)

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = "application/vnd.ollama.image."
TEXT_BYTES = 16 << 20  # more is no template, system message or licence
ATTEMPTS = 4
SETTLED_S = 60.0  # between its manifest and its name a pull needs a moment
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Layer(Struct, frozen=True):
    mediaType: str
    digest: str
    size: int

    def __post_init__(self) -> None:
        """Raises: ValueError."""
        if not _DIGEST.fullmatch(self.digest) or self.size < 0:
            raise ValueError("a digest must be sha256:HEX")

    @property
    def kind(self) -> str:
        """model, adapter, projector, template, system, params, messages, license, ..."""
        return self.mediaType.removeprefix(LAYER)

    @property
    def file_name(self) -> str:
        return self.digest.replace(":", "-")


class Manifest(Struct, frozen=True):
    layers: list[Layer]
    config: Layer | None = None

    def of(self, kind: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.kind == kind]


class StoredModel(Struct, frozen=True, kw_only=True):
    """A model whose blobs are here. `modelfile` is None where it brings nothing but its weights."""

    name: str
    path: Path
    projector: Path | None = None
    modelfile: Modelfile | None = None
    notes: tuple[str, ...] = ()  # what of it is left out, and why


class OllamaRegistry:
    """One registry, asked synchronously: the caller is a thread that may wait."""

    def __init__(self, name: OllamaName, token: str | None, mirror: str | None, transport: Transport) -> None:
        root = (mirror or f"{name.scheme}://{name.host}").rstrip("/")
        self.name = name
        self._root = f"{root}/v2/{name.namespace}/{name.name}"
        self._transport = transport
        if token:
            transport.headers["Authorization"] = f"Bearer {token}"

    def manifest(self) -> tuple[Manifest, bytes]:
        """Raises: NotFound, HubRefused, DownloadFailed, BadRequest: not a GGUF model."""
        body = self._get(f"{self._root}/manifests/{self.name.tag}")
        manifest = _decoded(body, str(self.name))
        if len(manifest.of("model")) != 1:
            kinds = ", ".join(sorted({layer.kind for layer in manifest.layers})) or "nothing"
            raise BadRequest(f"{self.name} is no GGUF model: it consists of {kinds}.", param="model")
        return manifest, body

    def remote(self, layer: Layer) -> RemoteFile:
        return RemoteFile(
            url=f"{self._root}/blobs/{layer.digest}",
            size=layer.size,
            digest=layer.digest,
            label=f"{self.name} ({layer.kind})",
        )

    def _get(self, url: str) -> bytes:
        import httpx

        reason = ""
        with self._transport.client() as client:
            for attempt in range(ATTEMPTS):
                if attempt:
                    self._transport.wait(attempt)
                try:
                    response = client.get(url, headers={"Accept": MANIFEST_TYPE})
                except httpx.TransportError as error:
                    reason = str(error) or type(error).__name__
                    continue
                except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
                    raise DownloadFailed(f"{url}: {error}.") from error
                if response.status_code == 200:
                    return response.content
                if response.status_code < 500 and response.status_code != 429:
                    raise refused(response.status_code, f"model {self.name}", response.url.netloc.decode())
                reason = f"it answers {response.status_code}"
        raise DownloadFailed(f"{url} cannot be read: {reason}.")


def _decoded(body: bytes, name: str) -> Manifest:
    try:
        return msgspec.json.decode(body, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DownloadFailed(f"The manifest of {name} cannot be read: {error}.") from error


# ---------------------------------------------------------------- stores


class Store:
    """A folder of manifests and blobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob(self, layer: Layer) -> Path:
        return self.folder / "blobs" / layer.file_name

    def manifest_path(self, name: OllamaName) -> Path:
        return self.folder / "manifests" / name.host / name.namespace / name.name / name.tag

    def names(self) -> list[tuple[OllamaName, Path]]:
        """Every model with its manifest."""
        found = []
        for path in sorted(self.folder.glob("manifests/*/*/*/*")):
            host, namespace, name, tag = path.relative_to(self.folder / "manifests").parts
            if path.is_file() and not tag.startswith("."):
                found.append((OllamaName(name=name, tag=tag, namespace=namespace, host=host), path))
        return found

    def read(self, name: OllamaName, manifest_path: Path) -> StoredModel:
        """Raises: LlamaleonError, OSError: it cannot be served."""
        return self.model(name, _decoded(manifest_path.read_bytes(), str(name)), self.blob)

    def fetch(
        self, layer: Layer, remote: RemoteFile, transport: Transport, report: Callable[[int], None]
    ) -> Path:
        """Its path: here, or where Ollama itself has it already. Raises: as `download.fetch`."""
        for store in (self, *map(Store, places.ollama_stores())):
            path = store.blob(layer)
            if path.is_file() and path.stat().st_size == layer.size:
                return path
        fetch(remote, self.blob(layer), transport, report)
        return self.blob(layer)

    def note(self, name: OllamaName, manifest: bytes) -> None:
        """From now on the store has this model. What it had by that name is kept until `settle`."""
        path = self.manifest_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.tmp")
        write_synced(beside, manifest)
        if path.exists() and path.read_bytes() != manifest:
            path.replace(self._replaced(name))
        beside.replace(path)

    def settle(self, name: OllamaName) -> None:
        """The model is served: remove what only its earlier version had. Only of a store of our own."""
        old = self._replaced(name)
        if old.exists():
            self._remove([(name, old)])

    def _replaced(self, name: OllamaName) -> Path:
        return self.manifest_path(name).with_name(f".{name.tag}.replaced")

    def sweep(self, served: Collection[str]) -> None:
        """Remove what no name stands for any more. Only of a store of our own."""
        settled = time.time() - SETTLED_S
        self._remove(
            [
                (name, path)
                for name, path in self.names()
                if short_name(name) not in served and path.stat().st_mtime < settled
            ]
        )

    def forget(self, served_as: str) -> None:
        """Remove what only this name stood for. Only of a store of our own."""
        self._remove([(name, path) for name, path in self.names() if short_name(name) == served_as])

    def _remove(self, manifests: list[tuple[OllamaName, Path]]) -> None:
        """With the blobs that no other manifest has; a damaged one may have any, as long as it stays."""
        if not manifests:
            return
        unused = [layer for name, path in manifests for layer in self._layers(name, path) or ()]
        for _, path in manifests:
            path.unlink(missing_ok=True)
        kept: set[str] = set()
        for name, path in self.names():
            layers = self._layers(name, path)
            if layers is None:
                return
            kept |= {layer.digest for layer in layers}
        for layer in unused:
            if layer.digest not in kept:
                self.blob(layer).unlink(missing_ok=True)

    @staticmethod
    def _layers(name: OllamaName, path: Path) -> list[Layer] | None:
        """None if they cannot be read."""
        try:
            return _decoded(path.read_bytes(), str(name)).layers
        except (DownloadFailed, OSError) as error:
            log.warning("%s: %s", path, error)
            return None

    @staticmethod
    def model(name: OllamaName, manifest: Manifest, path_of: Callable[[Layer], Path]) -> StoredModel:
        """What the layers mean. Raises: LlamaleonError, OSError."""
        models = manifest.of("model")
        if len(models) != 1:
            raise BadRequest(f"{name} is no GGUF model.", param="model")
        served = short_name(name)
        projectors = manifest.of("projector")
        modelfile, notes = _modelfile(served, manifest, path_of)
        return StoredModel(
            name=served,
            path=path_of(models[0]),
            projector=path_of(projectors[0]) if projectors else None,
            modelfile=modelfile,
            notes=notes,
        )


def short_name(name: OllamaName) -> str:
    """By which it is served: `NAME:latest` and NAME are one."""
    return str(name).removesuffix(":latest")


def _modelfile(
    served: str, manifest: Manifest, path_of: Callable[[Layer], Path]
) -> tuple[Modelfile | None, tuple[str, ...]]:
    parameters: dict[str, Any] = {}
    for layer in manifest.of("params"):
        parameters |= _json(path_of(layer), dict[str, Any], served)
    usable, notes = _usable(parameters)
    messages = [
        (message["role"], message["content"])
        for layer in manifest.of("messages")
        for message in _json(path_of(layer), list[dict[str, str]], served)
        if {"role", "content"} <= message.keys()
    ]
    templates = [
        text for kind in ("prompt", "template") for text in _texts(manifest, kind, path_of)
    ]  # its old name
    systems = _texts(manifest, "system", path_of)
    adapters = [AdapterLine(source=layer.file_name, path=path_of(layer)) for layer in manifest.of("adapter")]
    if not (usable or messages or templates or systems or adapters):
        return None, notes
    made = Modelfile(
        from_=served,
        adapters=tuple(adapters),
        parameters=tuple(usable.items()),
        system=systems[-1] if systems else None,
        template=templates[-1] if templates else None,
        messages=tuple(messages),
        licenses=tuple(_texts(manifest, "license", path_of)),
    )
    return made, notes


def _usable(parameters: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Without those that nothing here understands: a model with one of them still answers."""
    usable, notes = {}, []
    for name, value in parameters.items():
        try:
            meaning_of(((name, value),))
        except LlamaleonError as error:
            notes.append(f"parameter {name} is left out: {error.message}")
        else:
            usable[name] = value
    return usable, tuple(notes)


def _texts(manifest: Manifest, kind: str, path_of: Callable[[Layer], Path]) -> list[str]:
    return [_text(path_of(layer)) for layer in manifest.of(kind)]


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(TEXT_BYTES).decode(errors="replace")


def _json(path: Path, shape: Any, name: str) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotFound(f"{name}: {path} cannot be read: {error}.", param="model") from error
