"""The process around the engine: loading, the reader thread, the loop."""

from __future__ import annotations

import queue
import sys
import threading
import time
from pathlib import Path

import psutil

from llamaleon_server.binding import library
from llamaleon_server.binding.cores import roam
from llamaleon_server.binding.errors import LoadError
from llamaleon_server.binding.loading import Loaded, LoadOptions, open_model
from llamaleon_server.engine import protocol
from llamaleon_server.engine.channel import Channel, MalformedMessage
from llamaleon_server.engine.engine import Engine

PROGRESS_INTERVAL_S = 0.1

WAKE = "wake"  # another thread has left something for the engine's

# For the engine's thread: a message, a request with its prompt's tokens, WAKE, None at the end.
Work = protocol.ToEngine | tuple[protocol.Generate, list[int]] | str | None


class Reader(threading.Thread):
    """Takes messages off the channel, answers what needs only the vocabulary, and queues the rest."""

    def __init__(
        self, channel: Channel, loaded: Loaded, engine: Engine, work: queue.SimpleQueue[Work]
    ) -> None:
        super().__init__(name="reader", daemon=True)
        self._channel = channel
        self._vocabulary = loaded.model.vocabulary
        self._engine = engine
        self._work = work
        self._process = psutil.Process()

    def run(self) -> None:
        roam()
        try:
            while self._take():
                pass
        except OSError as error:
            sys.stderr.write(f"The API's pipe broke: {error}\n")
        finally:
            self._work.put(None)

    def _take(self) -> bool:
        """Handle one message. False at the end of the stream."""
        try:
            message = self._channel.receive()
        except MalformedMessage as error:
            self._refuse(error)
            return True
        if message is None:
            return False
        try:
            self._answer(message)
        except ValueError as error:  # a token id or a text that the vocabulary refuses
            assert not isinstance(message, protocol.Shutdown), "it asks for nothing"
            self._channel.send(protocol.Failed(id=message.id, code="bad_request", message=str(error)))
        return True

    def _refuse(self, error: MalformedMessage) -> None:
        sys.stderr.write(f"A malformed message: {error}\n")
        if error.request is not None:
            self._channel.send(protocol.Failed(id=error.request, code="bad_request", message=str(error)))

    def _answer(self, message: protocol.ToEngine) -> None:
        vocabulary = self._vocabulary
        match message:
            case protocol.Tokenize():
                tokens = [
                    self._tokens(text, message.add_special, message.parse_special) for text in message.texts
                ]
                self._channel.send(protocol.Reply(id=message.id, tokens=tokens))
            case protocol.Detokenize():
                pieces = [vocabulary.rendered(token) for token in message.tokens]
                self._channel.send(protocol.Reply(id=message.id, pieces=pieces))
            case protocol.Status():
                status = self._engine.status(self._process.memory_info().rss)
                self._channel.send(protocol.Reply(id=message.id, status=status))
            case protocol.Generate():
                prompt = message.prompt
                if isinstance(prompt, str):
                    prompt = self._tokens(prompt, message.add_special, message.parse_special)
                self._work.put((message, prompt))
            case _:
                self._work.put(message)

    def _tokens(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return self._vocabulary.tokenize(text, add_special=add_special, parse_special=parse_special)


def run(options: protocol.EngineOptions, channel: Channel) -> int:
    """Load the model and serve until told to stop. Returns: the exit status."""
    began = time.monotonic()
    library.start()
    try:
        loaded = open_model(_load_options(options), _progress(channel))
    except LoadError as error:
        channel.send(protocol.Fatal(str(error)))
        return 1
    if options.mixing and loaded.mixing_off:
        sys.stderr.write(f"Adapters take turns, one set in a pass: {loaded.mixing_off}\n")
    work: queue.SimpleQueue[Work] = queue.SimpleQueue()
    engine = Engine(loaded, options, channel.send, lambda: work.put(WAKE))
    channel.send(_ready(loaded, time.monotonic() - began))
    Reader(channel, loaded, engine, work).start()
    _serve(engine, work)
    engine.close()
    loaded.context.close()
    loaded.model.close()
    return 0


def _serve(engine: Engine, work: queue.SimpleQueue[Work]) -> None:
    """Handle every message that has come, then do one step; sleep only when there is nothing to do."""
    while True:
        while not (engine.has_work and work.empty()):
            item = work.get()
            if item is None or isinstance(item, protocol.Shutdown):
                return
            _handle(engine, item)
        if not engine.step():
            item = work.get()  # a file is being read: its reader wakes us, or a message comes before
            if item is None or isinstance(item, protocol.Shutdown):
                return
            _handle(engine, item)


def _handle(engine: Engine, item: protocol.ToEngine | tuple[protocol.Generate, list[int]] | str) -> None:
    match item:
        case str():
            engine.settle()
        case (protocol.Generate() as request, list() as prompt):
            engine.generate(request, prompt)
        case protocol.Cancel():
            engine.cancel(item.id)
        case protocol.LoadAdapter():
            engine.load_adapter(item)
        case protocol.UnloadAdapter():
            engine.unload_adapter(item)
        case protocol.DumpLogits():
            engine.dump_logits(item)
        case _:
            raise TypeError(f"the reader answers {type(item).__name__} itself")


def _load_options(options: protocol.EngineOptions) -> LoadOptions:
    return LoadOptions(
        path=Path(options.model_path),
        gpu_layers=options.gpu_layers,
        context_tokens=options.context_tokens,
        kv_tokens=options.kv_tokens,
        running_sequences=options.parallel_sequences,
        batch_tokens=options.batch_tokens,
        threads=options.threads,
        flash_attention=options.flash_attention,
        kv_type=options.kv_type,
        use_mmap=options.use_mmap,
        mixing=options.mixing,
    )


class _Progress:
    """Passes loading progress on, at most every `PROGRESS_INTERVAL_S`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._next = 0.0

    def __call__(self, fraction: float) -> bool:
        """False, so that loading stops, once the API is gone."""
        now = time.monotonic()
        if now < self._next and fraction < 1.0:
            return True
        self._next = now + PROGRESS_INTERVAL_S
        try:
            self._channel.send(protocol.LoadProgress(fraction))
        except OSError:
            return False
        return True


def _progress(channel: Channel) -> _Progress:
    return _Progress(channel)


def _ready(loaded: Loaded, load_s: float) -> protocol.Ready:
    model, vocabulary = loaded.model, loaded.model.vocabulary
    return protocol.Ready(
        n_vocab=vocabulary.size,
        context_tokens=loaded.context_tokens,
        train_context_tokens=model.train_context_tokens,
        parallel_sequences=loaded.running_sequences,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.eos,
        end_token_ids=sorted(vocabulary.end_tokens),
        adds_bos=vocabulary.adds_bos,
        gpu_layers=model.layers + 1 if model.gpu_layers < 0 else min(model.gpu_layers, model.layers + 1),
        device=loaded.device,
        model_bytes=model.bytes,
        n_params=model.parameters,
        load_s=load_s,
    )
