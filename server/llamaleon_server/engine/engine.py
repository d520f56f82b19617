"""The engine: messages in, steps, messages out. One thread runs it, the only one in the context.

A step reads: schedule, run, postprocess. Between steps messages are handled and at most one piece of a
dump of logits is evaluated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

from llamaleon_server.binding.adapters import AdapterLoader
from llamaleon_server.binding.context import Context, exact_context
from llamaleon_server.binding.errors import AdapterError, BindingError, DecodeError
from llamaleon_server.binding.loading import Loaded
from llamaleon_server.engine import protocol
from llamaleon_server.engine.bank import AdapterBank
from llamaleon_server.engine.dump import LogitsDump
from llamaleon_server.engine.grouping import GroupByAdapters
from llamaleon_server.engine.kv import KvCache
from llamaleon_server.engine.postprocess import NotFinite, Postprocessor
from llamaleon_server.engine.prefix import PrefixCache
from llamaleon_server.engine.runner import Runner, SpanResult
from llamaleon_server.engine.sampling import problem_of
from llamaleon_server.engine.scheduler import Limits, Rejected, Scheduler, Span
from llamaleon_server.engine.sequence import Sequence

Send = Callable[[protocol.FromEngine], None]


class Engine:
    """Everything of one resident model. `send` must be callable from any thread."""

    def __init__(self, loaded: Loaded, options: protocol.EngineOptions, send: Send) -> None:
        model, context = loaded.model, loaded.context
        self._send = send
        self._loaded = loaded
        self._vocabulary = model.vocabulary
        self._bank = AdapterBank(AdapterLoader(model), context)
        spare = loaded.sequences - loaded.running_sequences
        self._kv = KvCache(context, context.kv_tokens, loaded.sequences, model.window_tokens)
        self._prefixes = PrefixCache(
            self._kv, limit=spare, max_tokens=loaded.context_tokens, whole_only=model.keeps_state
        )
        limits = Limits(
            context_tokens=loaded.context_tokens,
            running=loaded.running_sequences,
            waiting=options.queue_limit,
            batch_tokens=loaded.batch_tokens,
            output_rows=loaded.output_rows,
        )
        self._scheduler = Scheduler(self._kv, self._prefixes, limits, GroupByAdapters())
        self._runner = Runner(context, self._bank, loaded.batch_tokens)
        self._postprocessor = Postprocessor(model.vocabulary, context, loaded.context_tokens)
        self._dumps: deque[LogitsDump] = deque()
        self._steps = self._tokens_out = 0

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._dumps)

    def status(self, resident_bytes: int) -> protocol.EngineStatus:
        """Counters; may be called from another thread."""
        return protocol.EngineStatus(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            kv_used_tokens=self._kv.total - self._kv.free,
            kv_total_tokens=self._kv.total,
            adapters=self._bank.keys,
            resident_bytes=resident_bytes,
            step=protocol.StepStatus(steps=self._steps, tokens_out=self._tokens_out),
            prefix=protocol.PrefixStatus(prefixes=len(self._prefixes), tokens=self._prefixes.tokens),
        )

    # ------------------------------------------------------------ messages

    def generate(self, request: protocol.Generate, prompt: list[int]) -> None:
        """Queue a request whose prompt is tokenised."""
        try:
            if self._scheduler.find(request.id) is not None:
                raise Rejected("bad_request", f"Request id {request.id} is running already.", "id")
            if problem := problem_of(request, self._vocabulary):
                raise Rejected("bad_request", *problem)
            self._require(request.adapters)
            self._scheduler.add(request, prompt)
        except Rejected as error:
            self._fail(request.id, error.code, str(error), error.param)

    def cancel(self, request: int) -> None:
        sequence = self._scheduler.find(request)
        if sequence is not None:
            self._scheduler.remove(sequence)
            self._sweep()

    def load_adapter(self, request: protocol.LoadAdapter) -> None:
        try:
            loaded, settled = self._bank.load(request.key, Path(request.path))
        except AdapterError as error:
            self._fail(request.id, "adapter_refused", str(error))
            return
        for waiting in settled:
            self._send(protocol.Reply(id=waiting))
        self._send(protocol.Reply(id=request.id, adapter=loaded))

    def unload_adapter(self, request: protocol.UnloadAdapter) -> None:
        if not self._bank.retire(request.key, request.id):
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
            if not self._bank.serves(use.key):
                raise Rejected("adapter_unknown", f"The adapter {use.key} is not loaded.", "model")

    def _fail(self, request: int, code: protocol.FailedCode, message: str, param: str | None = None) -> None:
        self._send(protocol.Failed(id=request, code=code, message=message, param=param))

    def _sweep(self) -> None:
        """Let adapters go that were asked to leave and that nobody uses any more."""
        if not self._bank.has_leaving:
            return
        in_use = {use.key for sequence in self._scheduler.sequences() for use in sequence.adapters}
        in_use |= {use.key for dump in self._dumps for use in dump.adapters}
        for request in self._bank.sweep(in_use):
            self._send(protocol.Reply(id=request))

    # ------------------------------------------------------------ work

    def step(self) -> None:
        """Advance all requests of one adapter set by one pass, and a dump by one piece."""
        if spans := self._scheduler.schedule():
            results = self._run(spans)
            deltas = self._postprocess(results)
            if deltas:
                self._send(protocol.Step(deltas))
            self._steps += 1
        if self._dumps:
            self._advance_dump()
        self._sweep()

    def _run(self, spans: tuple[Span, ...]) -> list[SpanResult]:
        try:
            results = self._runner.run(spans)
        except DecodeError as error:
            for span in spans:
                self._drop(span.sequence, f"The model failed: {error}.")
            return []
        if results is None:
            if not self._scheduler.make_room():
                self._drop(spans[0].sequence, "The KV cache has no room for this request.")
            return []
        for span in spans:
            assert span.sequence.slot is not None, "it has just run"
            self._kv.extend(span.sequence.slot, span.count)
            span.sequence.computed += span.count
        return results

    def _postprocess(self, results: list[SpanResult]) -> list[protocol.Delta]:
        deltas = []
        for result in results:
            sequence = result.span.sequence
            generated = sequence.generated
            try:
                delta = self._postprocessor.advance(result)
            except NotFinite:
                self._drop(
                    sequence, "The model computed numbers that are not finite: its adapter or file is bad."
                )
                continue
            self._tokens_out += sequence.generated - generated
            if delta is None:
                continue
            deltas.append(delta)
            if delta.finish is not None:
                self._scheduler.remove(sequence)
        return deltas

    def _drop(self, sequence: Sequence, message: str) -> None:
        self._scheduler.remove(sequence, keep_cells=False)
        self._fail(sequence.id, "engine_error", message)

    def _advance_dump(self) -> None:
        dump = self._dumps[0]

        def make_context(tokens: int, rows: int) -> Context:
            context = exact_context(self._loaded.model, tokens, rows, self._loaded.threads)
            context.use_adapters(self._bank.handles(dump.adapters))
            return context

        try:
            if not dump.advance(make_context):
                return
        except (OSError, BindingError) as error:
            self._fail(dump.request.id, "engine_error", f"The logits cannot be written: {error}.")
        else:
            self._send(protocol.Reply(id=dump.request.id))
        self._dumps.popleft()
