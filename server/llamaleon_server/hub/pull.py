"""`pull`: from a name to a model that answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

from llamaleon_server.errors import DownloadFailed
from llamaleon_server.hub import machine
from llamaleon_server.hub.download import RemoteFile, Stopped, Transport
from llamaleon_server.hub.names import HubName, OllamaName, parse_name
from llamaleon_server.hub.ollama import OllamaRegistry, StoredModel
from llamaleon_server.hub.progress import PUBLIC, SUCCESS, Progress, Source
from llamaleon_server.hub.quants import name_within, projector_of, variants_of
from llamaleon_server.hub.recording import alias, own_store, record
from llamaleon_server.registry.blobs import disk_errors
from llamaleon_server.registry.registry import Registry

log = logging.getLogger(__name__)

Result = TypeVar("Result")
_Item = Progress | Exception
# Pulls that run, so that two of one name share the work.
_RUNNING: WeakKeyDictionary[Registry, dict[object, _Work]] = WeakKeyDictionary()


async def pull(
    registry: Registry, name: str, *, source: Source = PUBLIC, ollama: bool = False
) -> AsyncGenerator[Progress, None]:
    """Fetch a model and register it; the last `Progress` has status "success" and the name in `model`.

    Nothing is yielded before the hub or registry has listed the files, so that an unknown name is an error
    and no stream (`answers.merge.begin`). Two pulls of one name share the work; it stops when the last of
    their generators is closed, and what had come is kept for the next.

    Args:
        ollama: a name of two parts means USER/NAME of Ollama's registry, not OWNER/REPO of the hub.

    Raises:
        BadRequest: not a name, or a file that cannot be served.
        NotFound: no such repository, model, file or quantisation; the message lists what there is.
        HubRefused: a gated or private repository, with what to do.
        DownloadFailed: the other side failed, or a file did not have its checksum.
        StorageFull: what came is kept; nothing was registered.
    """
    wanted = parse_name(name, ollama=ollama)
    running = _RUNNING.setdefault(registry, {})
    key = (wanted, source)
    work = running.get(key)
    if work is None:
        work = running[key] = _Work(registry, wanted, source, lambda ended: _forget(running, key, ended))
    listener = work.join()
    try:
        while True:
            item = await listener.get()
            if isinstance(item, Exception):
                raise item
            if item.status == SUCCESS and item.model is not None:
                await asyncio.to_thread(alias, registry, name, item.model)
            yield item
            if item.status == SUCCESS:
                return
    finally:
        work.leave(listener)


def _forget(running: dict[object, _Work], key: object, work: _Work) -> None:
    """Unless somebody has begun it anew since."""
    if running.get(key) is work:
        del running[key]


class _Work:
    """One pull and those who listen to it. The bytes come in a thread: TLS and checksums take time."""

    def __init__(
        self, registry: Registry, wanted: HubName | OllamaName, source: Source, ended: Callable[[_Work], None]
    ) -> None:
        self._registry = registry
        self._wanted = wanted
        self._source = source
        self._ended = ended
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._listeners: list[asyncio.Queue[_Item]] = []
        self._said: dict[str | None, Progress] = {}  # by digest: what somebody who comes later missed
        self._task = asyncio.create_task(self._run())

    def join(self) -> asyncio.Queue[_Item]:
        listener: asyncio.Queue[_Item] = asyncio.Queue()
        for progress in self._said.values():
            listener.put_nowait(progress)
        self._listeners.append(listener)
        return listener

    def leave(self, listener: asyncio.Queue[_Item]) -> None:
        self._listeners.remove(listener)
        if not self._listeners:
            self._stop.set()
            self._ended(self)  # who asks again begins anew, and waits for the file until this one has let go

    async def _run(self) -> None:
        try:
            fetched = await self._in_thread(self._fetched)
            if self._stop.is_set():
                return
            self._tell(Progress(status="writing manifest"))
            for note in await record(self._registry, fetched):
                self._tell(Progress(status="writing manifest", note=note))
            if isinstance(self._wanted, OllamaName):
                await asyncio.to_thread(own_store(self._registry).settle, self._wanted)
            log.info("pulled %s: %s", fetched.name, fetched.path)
            self._tell(Progress(status=SUCCESS, model=fetched.name))
        except Stopped:
            log.info("a pull was ended; what came is kept")
        except Exception as error:  # each listener raises it for its own client
            self._tell(error)
        finally:
            self._ended(self)

    def _tell(self, item: _Item) -> None:
        if isinstance(item, Progress) and item.status != SUCCESS:
            self._said[item.digest] = item
        for listener in self._listeners:
            listener.put_nowait(item)

    def _report(self, progress: Progress) -> None:
        """From the thread."""
        self._loop.call_soon_threadsafe(self._tell, progress)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        """Not the default pool's: a pull lasts, and others wait for those threads."""
        future: asyncio.Future[Result] = self._loop.create_future()

        def settle(result: Result | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # None only with an error

        def run() -> None:
            result, failure = None, None
            try:
                result = work()
            except Exception as error:  # raised again by who waits for this thread
                failure = error
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                self._loop.call_soon_threadsafe(settle, result, failure)

        threading.Thread(target=run, name="pull", daemon=True).start()
        return await future

    # ------------------------------------------------------------ in the thread

    def _fetched(self) -> StoredModel:
        transport = Transport(headers={"User-Agent": f"llamaleon/{version('llamaleon')}"}, stop=self._stop)
        try:
            with disk_errors("what belongs to the model"):
                if isinstance(self._wanted, OllamaName):
                    return self._from_ollama(self._wanted, transport)
                return self._from_hub(self._wanted, transport)
        except OSError as error:  # a folder that is not ours to write in
            raise DownloadFailed(f"{error.filename}: {error.strerror or error}.") from error

    def _from_hub(self, wanted: HubName, transport: Transport) -> StoredModel:
        from llamaleon_server.hub import huggingface

        hub = huggingface.Hub(self._source, transport, wanted.endpoint)
        repository = hub.repository(wanted.repo, wanted.revision)
        choice = huggingface.chosen_of(repository, wanted, machine.measured())
        self._report(Progress(status="pulling manifest", note=choice.why))
        projector = projector_of(repository.files, choice.variant)
        paths = []
        for file in (*choice.variant.files, *([projector] if projector else [])):
            assert file.remote is not None  # the hub listed it
            watch = self._watch(file.remote)
            paths.append(huggingface.fetch_into_cache(repository, file.path, file.remote, transport, watch))
            watch(file.size)
        return StoredModel(
            name=name_within(repository.repo, choice.variant, variants_of(repository.files)),
            path=paths[0],
            projector=paths[-1] if projector else None,
        )

    def _from_ollama(self, wanted: OllamaName, transport: Transport) -> StoredModel:
        source = self._source
        asked = OllamaRegistry(wanted, source.token, source.mirror, transport)
        manifest, body = asked.manifest()
        self._report(Progress(status="pulling manifest"))
        store = own_store(self._registry)

        def fetched() -> tuple[StoredModel, list[Path]]:
            paths: dict[str, Path] = {}
            for layer in manifest.layers:
                if layer.digest not in paths:
                    watch = self._watch(asked.remote(layer))
                    paths[layer.digest] = store.fetch(layer, asked.remote(layer), transport, watch)
                    watch(layer.size)
            self._report(Progress(status="verifying sha256 digest"))
            model = store.model(wanted, manifest, lambda layer: paths[layer.digest])
            return model, list(paths.values())

        model, paths = fetched()
        store.note(wanted, body)
        if not all(path.exists() for path in paths):
            # Removed with another model that had it too, before the note said that it is needed.
            model, _ = fetched()
        return model

    def _watch(self, file: RemoteFile) -> Callable[[int], None]:
        def report(completed: int) -> None:
            self._report(
                Progress(
                    status=f"pulling {file.hex[:12]}",
                    file=file.label,
                    digest=file.digest,
                    total=file.size,
                    completed=completed,
                )
            )

        report(0)
        return report
