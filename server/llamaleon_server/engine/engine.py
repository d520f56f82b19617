"""The engine: messages in, steps, messages out. One thread runs it, the only one in the context.

A step (stepping.py) reads: schedule, run, draw, tell. Between steps messages are handled, and at most one
piece of a dump of logits and one of the embeddings is evaluated.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llamaleon_server.binding.context import Context, exact_context
from llamaleon_server.binding.errors import AdapterError, BindingError, NoRoomError
from llamaleon_server.binding.loading import Loaded
from llamaleon_server.engine import protocol
from llamaleon_server.engine.adapters.bank import AdapterBank
from llamaleon_server.engine.adapters.warm import Known
from llamaleon_server.engine.cache.kv import KvCache
from llamaleon_server.engine.cache.prefix import PrefixCache
from llamaleon_server.engine.drawing import Drawing
from llamaleon_server.engine.dump import LogitsDump
from llamaleon_server.engine.embedding import Embeddings
from llamaleon_server.engine.images import Image
from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.engine.postprocess import Postprocessor
from llamaleon_server.engine.runner import Runner
from llamaleon_server.engine.sampling.compiling import Compiler, GrammarRefused
from llamaleon_server.engine.sampling.grammar import Grammar
from llamaleon_server.engine.sampling.settings import problem_of
from llamaleon_server.engine.scheduling.cost import StepCost
from llamaleon_server.engine.scheduling.quarantine import Quarantine
from llamaleon_server.engine.scheduling.scheduler import Limits, Rejected, Scheduler
from llamaleon_server.engine.scheduling.speculate import Speculator
from llamaleon_server.engine.status import EngineStatus
from llamaleon_server.engine.stepping import Stepper, failure_of

Send = Callable[[protocol.FromEngine], None]

ONLY_EMBEDS = "This model generates no text: it is for `/v1/embeddings` or `/v1/rerank`."
IDLE_SHARE, LEAST_IDLE_CELLS = 4, 512  # a part of one sequence's context


def _idle_cells(loaded: Loaded, ram_bytes: int) -> int:
    """Cells that idle prefixes may keep: few where RAM takes the rest, for every pass walks past them."""
    if ram_bytes == 0 or loaded.model.keeps_state:
        return loaded.context_tokens
    return max(loaded.context_tokens // IDLE_SHARE, LEAST_IDLE_CELLS)


def _nothing() -> None:
    """For engines that are stepped by hand."""


class Engine:
    """Everything of one resident model. `send` must be callable from any thread."""

    def __init__(
        self, loaded: Loaded, options: EngineOptions, send: Send, wake: Callable[[], None] = _nothing
    ) -> None:
        """`wake` is called, from any thread, when there is something to `settle`."""
        model, context = loaded.model, loaded.context
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = wake
        self._send = send
        self._loaded = loaded
        self._vocabulary = model.vocabulary
        self._bank = AdapterBank(model, context, options, self._post, loaded.mixing_off)
        spare = loaded.sequences - loaded.running_sequences
        self._kv = KvCache(context, context.kv_tokens, loaded.sequences, model.window_tokens)
        self._cost = StepCost()
        self._prefixes = PrefixCache(
            self._kv,
            limit=spare,
            max_tokens=_idle_cells(loaded, options.prefix_ram_bytes),
            whole_only=model.keeps_state,
            ram_bytes=options.prefix_ram_bytes,
            cost=self._cost,
        )
        limits = Limits(
            context_tokens=loaded.context_tokens,
            running=loaded.running_sequences,
            waiting=options.queue_limit,
            batch_tokens=loaded.batch_tokens,
            output_rows=loaded.output_rows,
            step_target_s=options.step_target_s,
        )
        # The state of recurrent layers cannot go back to before a wrong guess.
        guesses = options.speculation and not model.keeps_state
        speculator = Speculator(self._cost) if guesses else None
        quarantine = Quarantine(self._bank)
        self._scheduler = Scheduler(
            self._kv, self._prefixes, limits, quarantine, cost=self._cost, speculator=speculator
        )
        self._stepper = Stepper(
            scheduler=self._scheduler,
            quarantine=quarantine,
            runner=Runner(context, self._bank, loaded.batch_tokens),
            bank=self._bank,
            kv=self._kv,
            cost=self._cost,
            speculator=speculator,
            drawing=Drawing(model.vocabulary, loaded.threads),
            postprocessor=Postprocessor(model.vocabulary),
        )
        self._compiler = Compiler(model.vocabulary, self._post)
        self._compiling: set[int] = set()  # requests whose grammar is not ready
        self._queue_limit = options.queue_limit
        self._dumps: deque[LogitsDump] = deque()
        self._embeddings = Embeddings(loaded, self._bank, self._post, options.step_target_s)

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._dumps) or self._embeddings.has_work

    def status(self, resident_bytes: int) -> EngineStatus:
        """Counters; may be called from another thread."""
        return EngineStatus(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            kv_used_tokens=self._kv.total - self._kv.free,
            kv_total_tokens=self._kv.total,
            adapters=self._bank.keys,
            resident_bytes=resident_bytes,
            step=self._stepper.recorder.status(),
            bank=self._bank.status(self._scheduler.adapter_users()),
            prefix=self._prefixes.status(),
        )

    def _post(self, work: Callable[[], None]) -> None:
        self._posted.put(work)
        self._wake()

    # ------------------------------------------------------------ messages

    def generate(self, request: protocol.Generate, prompt: list[int], images: tuple[Image, ...] = ()) -> None:
        """Queue a request whose prompt is tokenised, and whose images are read."""
        try:
            if self._scheduler.find(request.id) is not None or request.id in self._compiling:
                raise Rejected("bad_request", f"Request id {request.id} is running already.", "id")
            if not self._loaded.context.generates:
                raise Rejected("bad_request", ONLY_EMBEDS, "model")
            if problem := problem_of(request, self._vocabulary):
                raise Rejected("bad_request", *problem)
            self._check_images(request, images)
            self._require(request.adapters)
            if request.grammar is None:
                self._scheduler.add(request, prompt, images)
            else:
                self._compile(request, request.grammar, prompt, images)
        except Rejected as error:
            self._fail(request.id, error.code, str(error), error.param)

    def _check_images(self, request: protocol.Generate, images: tuple[Image, ...]) -> None:
        if images and request.prompt_logprobs is not None:
            raise Rejected("bad_request", "A prompt with images cannot be scored.", "prompt")
        for image in images:
            size, room = image.end - image.start, self._loaded.batch_tokens
            if image.picture.whole and size > room:
                message = f"The model reads an image of {size} tokens in one pass, which takes {room}."
                raise Rejected("bad_request", f"{message} Raise `batch_tokens`.", "prompt")

    def _compile(
        self, request: protocol.Generate, grammar: str, prompt: list[int], images: tuple[Image, ...]
    ) -> None:
        """Queue the request once its grammar is compiled; running requests go on meanwhile."""
        if len(self._compiling) >= self._queue_limit:
            raise Rejected("queue_full", f"{len(self._compiling)} requests are waiting. Try again later.")
        self._compiling.add(request.id)

        def done(result: Grammar | GrammarRefused) -> None:
            if request.id not in self._compiling:  # cancelled
                return
            self._compiling.remove(request.id)
            try:
                if isinstance(result, GrammarRefused):
                    raise Rejected("bad_request", str(result), "grammar")
                self._require(request.adapters)
                self._scheduler.add(request, prompt, images).grammar = result
            except Rejected as error:
                self._fail(request.id, error.code, str(error), error.param)

        self._compiler.compile(grammar, lambda: request.id in self._compiling, done)

    def cancel(self, request: int) -> None:
        self._compiling.discard(request)
        sequence = self._scheduler.find(request)
        if sequence is not None:
            self._scheduler.remove(sequence)
        else:
            self._embeddings.cancel(request)
        for dump in [dump for dump in self._dumps if dump.request.id == request]:
            self._drop_dump(dump)
        self._sweep()

    def embed(self, request: protocol.Embed | protocol.Rank, inputs: list[list[int]]) -> None:
        """Queue a request whose inputs are tokenised."""
        try:
            if self._embeddings.waiting >= self._queue_limit:
                message = f"{self._embeddings.waiting} requests are waiting. Try again later."
                raise Rejected("queue_full", message)
            if isinstance(request, protocol.Embed):
                self._require(request.adapters)
        except Rejected as error:
            self._fail(request.id, error.code, str(error), error.param)
            return
        if refused := self._embeddings.add(request, inputs):
            self._send(refused)

    def load_adapter(self, request: protocol.LoadAdapter) -> None:
        """Answered when the file has been read, by another thread: running requests go on meanwhile."""
        began = time.monotonic()

        def done(result: Known | AdapterError) -> None:
            if isinstance(result, AdapterError):
                self._fail(request.id, failure_of(result), str(result))
                return
            loaded = protocol.AdapterLoaded(
                key=result.key,
                rank=result.file.rank,
                tensors=2 * len(result.file.pairs),
                bytes=result.file.bytes,
                load_s=time.monotonic() - began,
            )
            self._send(protocol.Reply(id=request.id, adapter=loaded))

        settled = self._bank.roster.load(request.key, Path(request.path), pinned=request.pinned, done=done)
        for waiting in settled:
            self._send(protocol.Reply(id=waiting))

    def unload_adapter(self, request: protocol.UnloadAdapter) -> None:
        if not self._bank.roster.retire(request.key, request.id):
            self._send(protocol.Reply(id=request.id))
        self._sweep()

    def dump_logits(self, request: protocol.DumpLogits) -> None:
        dump = LogitsDump(request, self._vocabulary.size)
        try:
            self._require(request.adapters)
            if dump.longest > self._loaded.context_tokens:
                message = f"A sequence has {dump.longest} tokens, the context {self._loaded.context_tokens}."
                raise Rejected("context_length_exceeded", message, "sequences")
            size = self._vocabulary.size
            if any(not 0 <= token < size for tokens in request.sequences for token in tokens):
                raise Rejected(
                    "bad_request", f"A token id is not in the vocabulary (0 to {size - 1}).", "sequences"
                )
        except Rejected as error:
            self._fail(request.id, error.code, str(error), error.param)
            return
        self._dumps.append(dump)

    def _require(self, uses: tuple[protocol.AdapterUse, ...]) -> None:
        for use in uses:
            if not self._bank.roster.serves(use.key):
                raise Rejected("adapter_unknown", f"The adapter {use.key} is not loaded.", "model")

    def _fail(self, request: int, code: protocol.FailedCode, message: str, param: str | None = None) -> None:
        self._send(protocol.Failed(id=request, code=code, message=message, param=param))

    def _sweep(self) -> None:
        """Let adapters go that were asked to leave and that nobody uses any more."""
        if not self._bank.roster.has_leaving:
            return
        in_use = {use.key for sequence in self._scheduler.sequences() for use in sequence.adapters}
        in_use |= {use.key for dump in self._dumps for use in dump.adapters}
        in_use |= self._embeddings.adapter_keys
        for request in self._bank.roster.sweep(in_use):
            self._send(protocol.Reply(id=request))

    # ------------------------------------------------------------ work

    def settle(self) -> None:
        """Do what other threads have left for this one."""
        while not self._posted.empty():
            self._posted.get()()

    def step(self) -> bool:
        """Advance all requests that may share a pass by one; a dump and the embeddings by one piece.

        Returns: False if nothing can go on before `wake` is called.
        """
        self.settle()
        idle = True
        if self._scheduler.has_work:
            outcome = self._stepper.step()
            idle = outcome.idle
            if outcome.deltas:
                self._send(protocol.Step(outcome.deltas))
            for failed in outcome.failed:
                self._send(failed)
        if self._dumps:
            idle = False
            self._advance_dump()
        if self._embeddings.has_work:
            idle = False
            for answer in self._embeddings.advance(shared=self._scheduler.has_work):
                self._send(answer)
        self._sweep()
        return not idle

    def close(self) -> None:
        """Free what is not Python's, the model and its context aside."""
        self._compiler.close()
        for dump in list(self._dumps):
            self._drop_dump(dump)
        self._embeddings.close()
        self._bank.close()

    def _advance_dump(self) -> None:
        dump = self._dumps[0]

        def arrange(context: Context, tokens: int) -> None:
            self._bank.arrange(context, [(dump.adapters, tokens, tokens)])

        try:
            self._bank.require(dump.adapters)
            if not dump.advance(self._dump_context, arrange):
                return
        except (OSError, BindingError) as error:
            if isinstance(error, NoRoomError) and self._scheduler.has_work:
                return  # it comes when those that run now leave
            self._fail(dump.request.id, "engine_error", f"The logits cannot be written: {error}.")
        else:
            self._send(protocol.Reply(id=dump.request.id))
        self._drop_dump(dump)

    @contextmanager
    def _dump_context(self, tokens: int, rows: int) -> Iterator[Context]:
        loaded = self._loaded
        context = exact_context(loaded.model, tokens, rows, loaded.threads, loaded.mixer)
        self._bank.contexts.append(context)
        try:
            yield context
        finally:
            self._bank.contexts.remove(context)
            context.close()

    def _drop_dump(self, dump: LogitsDump) -> None:
        self._dumps.remove(dump)
        dump.close()
