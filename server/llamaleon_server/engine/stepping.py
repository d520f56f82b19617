"""One step of the engine: schedule, run, draw, tell; and what it cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from llamaleon_server.binding.errors import AdapterError, DecodeError, UnreadableAdapterError
from llamaleon_server.engine.adapters.bank import AdapterBank
from llamaleon_server.engine.cache.kv import KvCache
from llamaleon_server.engine.drawing import Drawing
from llamaleon_server.engine.postprocess import Postprocessor
from llamaleon_server.engine.protocol import Delta, Failed, FailedCode
from llamaleon_server.engine.runner import Runner, SpanResult
from llamaleon_server.engine.scheduling.cost import StepCost
from llamaleon_server.engine.scheduling.quarantine import Quarantine
from llamaleon_server.engine.scheduling.scheduler import Scheduler, Span
from llamaleon_server.engine.scheduling.speculate import Speculator
from llamaleon_server.engine.sequence import Sequence
from llamaleon_server.engine.stats import StepRecorder

NOT_FINITE = "The model computed numbers that are not finite: its adapter, its weight or the file is bad."

DEAD_END = "The answer cannot go on as `grammar` wants it: {}."


@dataclass
class Outcome:
    """What a step has to tell. `idle`: nothing could run, because an adapter is being read from disk."""

    deltas: list[Delta] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    idle: bool = False


def _counted(spans: tuple[Span, ...]) -> tuple[int, int]:
    """Tokens drawn so far by the sequences of a pass, and guesses that came true."""
    sequences = [span.sequence for span in spans]
    return sum(len(one.tokens) for one in sequences), sum(one.accepted for one in sequences)


def failure_of(error: AdapterError) -> FailedCode:
    """A file that cannot be read now may be read later: that does not make the adapter a bad one."""
    return "engine_error" if isinstance(error, UnreadableAdapterError) else "adapter_refused"


class Stepper:
    """Runs the passes. All its parts belong to one engine and one thread."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        quarantine: Quarantine,
        runner: Runner,
        bank: AdapterBank,
        kv: KvCache,
        cost: StepCost,
        speculator: Speculator | None,
        drawing: Drawing,
        postprocessor: Postprocessor,
    ) -> None:
        self._scheduler = scheduler
        self._quarantine = quarantine
        self._runner = runner
        self._bank = bank
        self._kv = kv
        self._cost = cost
        self._speculator = speculator
        self._drawing = drawing
        self._postprocessor = postprocessor
        self.recorder = StepRecorder()

    def step(self) -> Outcome:
        began = time.perf_counter()
        outcome = Outcome()
        self._bank.begin_step()
        spans = self._scheduler.schedule()
        self._drop_unreadable(outcome)
        if self._quarantine.must_wipe():
            self._scheduler.start_over()
            return outcome
        if not spans or outcome.failed:  # of the spans chosen some may be gone: the next step chooses again
            outcome.idle = not spans and not outcome.failed and self._bank.waits_for_disk
            return outcome
        generated, accepted = _counted(spans)
        results = self._run(spans, outcome)
        drawing_s = self._tell(results, outcome)
        now_generated, now_accepted = _counted(spans)
        seconds = time.perf_counter() - began
        self._record(spans, seconds, drawing_s, now_generated - generated, now_accepted - accepted)
        return outcome

    def _drop_unreadable(self, outcome: Outcome) -> None:
        for key, error in self._bank.take_failed().items():
            for sequence in self._scheduler.sequences():
                if any(use.key == key for use in sequence.adapters):
                    self._drop(sequence, failure_of(error), str(error), outcome)

    def _run(self, spans: tuple[Span, ...], outcome: Outcome) -> list[SpanResult]:
        try:
            results = self._runner.run(spans)
        except DecodeError as error:
            for span in spans:
                self._drop(span.sequence, "engine_error", f"The model failed: {error}.", outcome)
            return []
        except AdapterError as error:  # llama.cpp's own copy of one, which it reads when it is first needed
            for span in spans:
                self._drop(span.sequence, failure_of(error), str(error), outcome)
            return []
        if results is None:
            if not self._scheduler.make_room():
                message = "The KV cache has no room for this request."
                self._drop(spans[0].sequence, "engine_error", message, outcome)
            return []
        tokens, outputs = sum(span.count for span in spans), sum(span.outputs for span in spans)
        self._cost.observe(tokens, outputs, self._runner.decode_s)
        if self._speculator is not None:
            self._speculator.observe(tokens, outputs, self._runner.decode_s)
        adapters = len({use.key for span in spans for use in span.adapters})
        for span in spans:
            sequence = span.sequence
            assert sequence.slot is not None, "it has just run"
            self._kv.extend(sequence.slot, span.count)
            sequence.computed += span.count
            sequence.passes += 1
            sequence.batch_sequences += len(spans)
            sequence.batch_adapters += adapters
        return results

    def _tell(self, results: list[SpanResult], outcome: Outcome) -> float:
        """Draw and tell; the seconds that drawing took."""
        began = time.perf_counter()
        all_drawn = self._drawing.draw(results)
        drawing_s = time.perf_counter() - began
        for result, drawn in zip(results, all_drawn, strict=True):
            sequence = result.span.sequence
            if drawn.failed:
                continue
            if drawn.dead_end is not None:
                self._drop(sequence, "bad_request", DEAD_END.format(drawn.dead_end), outcome, param="grammar")
                continue
            delta = self._postprocessor.advance(result, drawn)
            if result.span.draft:
                self._cut_guesses(sequence)
            if delta is None:
                continue
            outcome.deltas.append(delta)
            if delta.finish is not None:
                self._scheduler.remove(sequence)
        spoiled = [
            result.span.sequence for result, drawn in zip(results, all_drawn, strict=True) if drawn.failed
        ]
        if spoiled:
            self._start_over(spoiled, outcome)
        return drawing_s

    def _start_over(self, spoiled: list[Sequence], outcome: Outcome) -> None:
        """Numbers were not finite: find out by whose fault, and let the others go on."""
        if not self._quarantine.active:
            self._quarantine.begin(self._scheduler.started)
        else:  # they ran alone, in a clean cache
            for sequence in spoiled:
                self._drop(sequence, "engine_error", NOT_FINITE, outcome)
        self._scheduler.start_over()

    def _cut_guesses(self, sequence: Sequence) -> None:
        """Forget what was computed for guesses that did not come true."""
        assert sequence.slot is not None, "it has just run"
        sequence.computed = len(sequence.tokens) - 1 - sequence.forced
        self._kv.cut(sequence.slot, sequence.computed)

    def _drop(
        self,
        sequence: Sequence,
        code: FailedCode,
        message: str,
        outcome: Outcome,
        param: str | None = None,
    ) -> None:
        self._scheduler.remove(sequence, keep_cells=False)
        outcome.failed.append(Failed(id=sequence.id, code=code, message=message, param=param))

    def _record(
        self, spans: tuple[Span, ...], seconds: float, drawing_s: float, generated: int, accepted: int
    ) -> None:
        sets = {span.adapters for span in spans}
        self.recorder.record(
            seconds=seconds,
            host_seconds=seconds - self._runner.decode_s - drawing_s - self._bank.copied_s,
            sequences=len(spans),
            tokens=sum(span.count for span in spans),
            adapters=len({use.key for adapters in sets for use in adapters}),
            intercepted=self._runner.intercepted,
            mixed=len(sets) > 1,
            tokens_in=sum(span.count for span in spans if span.start < span.sequence.prompt_tokens),
            tokens_out=generated,
            drafted=sum(len(span.draft) for span in spans),
            accepted=accepted,
        )
