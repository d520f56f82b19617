"""The process around the engine: loading, the reader thread, the loop."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from llamaleon_server.binding import library
from llamaleon_server.binding.cores import roam
from llamaleon_server.binding.embedding import rank_prompt
from llamaleon_server.binding.errors import LoadError
from llamaleon_server.binding.loading import Loaded, LoadOptions, open_model
from llamaleon_server.binding.options import Rope, Split
from llamaleon_server.binding.vision import Projector
from llamaleon_server.engine import protocol
from llamaleon_server.engine.channel import Channel, MalformedMessage
from llamaleon_server.engine.engine import Engine
from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.engine.vision import Prompt, Vision

PROGRESS_INTERVAL_S = 0.1

WAKE = "wake"  # another thread has left something for the engine's

# For the engine's thread: a message, a request with its prompt or its inputs' tokens, WAKE, None at the end.
Tokenised = tuple[protocol.Generate, Prompt] | tuple[protocol.Embed | protocol.Rank, list[list[int]]]
Work = protocol.ToEngine | Tokenised | str | None


class Reader(threading.Thread):
    """Takes messages off the channel, answers what needs only the vocabulary, and queues the rest."""

    def __init__(
        self,
        channel: Channel,
        loaded: Loaded,
        engine: Engine,
        work: queue.SimpleQueue[Work],
        vision: Vision | None,
    ) -> None:
        super().__init__(name="reader", daemon=True)
        self._channel = channel
        self._model = loaded.model
        self._vocabulary = loaded.model.vocabulary
        self._engine = engine
        self._work = work
        self._vision = vision
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
                breaks = message.breaks or [()] * len(message.texts)
                tokens = [
                    self._tokens(text, message.add_special, message.parse_special, places)
                    for text, places in zip(message.texts, breaks, strict=True)
                ]
                self._channel.send(protocol.Reply(id=message.id, tokens=tokens))
            case protocol.Detokenize():
                pieces = [vocabulary.rendered(token) for token in message.tokens]
                self._channel.send(protocol.Reply(id=message.id, pieces=pieces))
            case protocol.Status():
                status = self._engine.status(self._process.memory_info().rss)
                self._channel.send(protocol.Reply(id=message.id, status=status))
            case protocol.Generate() if message.media:
                self._see(message)
            case protocol.Generate():
                prompt = message.prompt
                if isinstance(prompt, str):
                    prompt = self._tokens(prompt, message.add_special, message.parse_special, message.breaks)
                self._work.put((message, Prompt(prompt)))
            case protocol.Cancel():
                if self._vision is not None:
                    self._vision.cancel(message.id)
                self._work.put(message)
            case protocol.Embed():
                inputs = [
                    self._tokens(one, add_special=True, parse_special=True) if isinstance(one, str) else one
                    for one in message.inputs
                ]
                self._work.put((message, inputs))
            case protocol.Rank():
                pairs = [rank_prompt(self._model, message.query, document) for document in message.documents]
                self._work.put((message, pairs))
            case _:
                self._work.put(message)

    def _see(self, message: protocol.Generate) -> None:
        if self._vision is None:
            reason = "This model has no projector, so it cannot see images."
        elif not isinstance(message.prompt, str):
            reason = "Images stand at markers in a text, not among token ids."
        elif message.prompt.count(protocol.MEDIA_MARKER) != len(message.media):
            reason = f"The prompt must have {protocol.MEDIA_MARKER} once for each image."
        else:
            self._vision.add(message)
            return
        self._channel.send(
            protocol.Failed(id=message.id, code="bad_request", message=reason, param="media[0]")
        )

    def _tokens(
        self, text: str, add_special: bool, parse_special: bool, breaks: Sequence[int] = ()
    ) -> list[int]:
        return self._vocabulary.tokenize(
            text, add_special=add_special, parse_special=parse_special, breaks=breaks
        )


def run(options: EngineOptions, channel: Channel) -> int:
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
    try:
        vision = _vision(options, loaded, channel, work)
    except LoadError as error:
        channel.send(protocol.Fatal(str(error)))
        return 1
    engine = Engine(loaded, options, channel.send, lambda: work.put(WAKE))
    channel.send(_ready(loaded, time.monotonic() - began))
    Reader(channel, loaded, engine, work, vision).start()
    _serve(engine, work)
    if vision is not None:
        vision.close()
    engine.close()
    loaded.context.close()
    loaded.model.close()
    return 0


def _vision(
    options: EngineOptions, loaded: Loaded, channel: Channel, work: queue.SimpleQueue[Work]
) -> Vision | None:
    """What reads images, running. Raises: LoadError."""
    if options.projector_path is None:
        return None

    def done(request: protocol.Generate, result: Prompt | protocol.Failed) -> None:
        if isinstance(result, protocol.Failed):
            channel.send(result)
        else:
            work.put((request, result))

    projector = Projector(Path(options.projector_path), loaded.model, loaded.threads)
    vision = Vision(projector, loaded.context_tokens, options.queue_limit, done)
    vision.start()
    return vision


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


def _handle(engine: Engine, item: protocol.ToEngine | Tokenised | str) -> None:
    match item:
        case str():
            engine.settle()
        case (protocol.Generate() as request, Prompt(tokens, images)):
            engine.generate(request, tokens, images)
        case (protocol.Embed() | protocol.Rank() as request, list() as inputs):
            engine.embed(request, inputs)
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


def _load_options(options: EngineOptions) -> LoadOptions:
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
        kv_type_k=options.kv_type_k,
        kv_type_v=options.kv_type_v,
        rope=Rope(
            scaling=options.rope_scaling,
            freq_base=options.rope_freq_base,
            freq_scale=options.rope_freq_scale,
            yarn_ext_factor=options.yarn_ext_factor,
            yarn_attn_factor=options.yarn_attn_factor,
            yarn_beta_fast=options.yarn_beta_fast,
            yarn_beta_slow=options.yarn_beta_slow,
            yarn_orig_ctx=options.yarn_orig_ctx,
        ),
        split=Split(mode=options.split_mode, shares=options.tensor_split, main_gpu=options.main_gpu),
        memory_bytes=options.memory_bytes,
        least_context_tokens=options.least_context_tokens,
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
        kv_tokens=loaded.context.kv_tokens,
        kv_bytes=loaded.kv_bytes,
        kv_type_k=loaded.kv_types[0],
        kv_type_v=loaded.kv_types[1],
        flash_attention=loaded.context.flash_attention,
        batch_tokens=loaded.batch_tokens,
        threads=loaded.threads,
        rope=model.rope.given(),
        automatic=loaded.automatic,
        gpus=[
            protocol.Gpu(name=one.description, free_bytes=one.free_bytes, total_bytes=one.total_bytes)
            for one in library.gpu_devices()
        ],
    )
