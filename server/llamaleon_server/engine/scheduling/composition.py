"""What one pass computes: decoding sequences first, guesses for them, then prompts in chunks.

A pass that decodes takes in only as many prompt tokens as keep it about as short as asked for, so that a
long prompt does not make the running streams stutter; a pass that only reads prompts takes all it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from llamaleon_server.engine.images import Image
from llamaleon_server.engine.scheduling.cost import StepCost
from llamaleon_server.engine.sequence import AdapterSet, Sequence

TILE_TOKENS = 16  # kernels work in tiles: a batch just above a multiple of this wastes most of one
LEAST_CHUNK = 16  # prompt tokens of a pass that decodes, however slow the machine: prompts always progress
UNKNOWN_CHUNK = 64  # the same before anything is known of what a pass costs


@dataclass(frozen=True)
class Span:
    """Positions [start, start + count) of a sequence in one pass; the last `outputs` of them get logits.

    The last `len(draft)` of them are guesses, which are not in `sequence.tokens` (yet). A span lies wholly in
    an image or outside of any; one of an image has its pass for itself.
    """

    sequence: Sequence
    start: int
    count: int
    outputs: int
    draft: tuple[int, ...] = ()
    image: Image | None = None

    @property
    def adapters(self) -> AdapterSet:
        return self.sequence.adapters

    @property
    def reaches_end(self) -> bool:
        return self.start + self.count >= len(self.sequence.tokens)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of a step: `batch_tokens`, `output_rows` of logits, and the seconds it should take if it decodes.

    `running` is the number of sequence numbers there are, `waiting` the length of the queue.
    """

    context_tokens: int
    running: int
    waiting: int
    batch_tokens: int
    output_rows: int
    step_target_s: float = 0.25


class Speculator(Protocol):
    """Guesses tokens ahead: by sequence id, in sum at most `tokens` of them and `outputs` rows of logits."""

    def propose(
        self, decoding: list[Sequence], tokens: int, outputs: int
    ) -> Mapping[int, tuple[int, ...]]: ...


class Composer:
    """Makes a step's spans of the sequences that may share it."""

    def __init__(self, limits: Limits, cost: StepCost, speculator: Speculator | None) -> None:
        self._limits = limits
        self._cost = cost
        self._speculator = speculator
        self._showed = False  # the last pass was an image's

    def compose(self, decoding: list[Sequence], prompts: list[Sequence], free_cells: int) -> tuple[Span, ...]:
        """Spans of one pass: `prompts` share what room is left, in the order given."""
        seen = [(sequence, sequence.image_at(sequence.computed)) for sequence in prompts]
        prompts = [sequence for sequence, image in seen if image is None]
        images = [(sequence, image) for sequence, image in seen if image is not None]
        # Images take every other pass where others wait.
        self._showed = bool(images) and not (self._showed and (decoding or prompts))
        if self._showed:
            return (self._image(*images[0], decodes=bool(decoding)),)
        step = _Step(self._limits)
        decoding = decoding[: min(step.tokens_left, step.outputs_left)]
        drafts = self._drafts(decoding, free_cells, beside_prompts=bool(prompts))
        left = len(decoding) + sum(len(draft) for draft in drafts.values())
        for sequence in decoding:
            draft = drafts.get(sequence.id, ())
            left -= 1 + len(draft)
            if sequence.forced:
                count = min(sequence.remaining, step.tokens_left - left)
                step.add(Span(sequence, sequence.computed, count, int(count == sequence.remaining)))
            else:
                step.add(Span(sequence, sequence.computed, 1 + len(draft), 1 + len(draft), draft))
        for sequence in prompts:
            if step.tokens_left < 1 or step.outputs_left < 1:
                break
            count = self._chunk(step, sequence, sequence.stretch(sequence.computed), bool(decoding))
            if count > 0:
                outputs = count if _scores(sequence) else int(count == sequence.remaining)
                step.add(Span(sequence, sequence.computed, count, outputs))
                step.prompt_tokens += count
        return tuple(step.spans)

    def _image(self, sequence: Sequence, image: Image, *, decodes: bool) -> Span:
        """As much of an image as a pass may take: all of it, where its vectors must see each other."""
        left = image.end - sequence.computed
        count = left if image.picture.whole else self._chunk(_Step(self._limits), sequence, left, decodes)
        return Span(sequence, sequence.computed, count, 0, image=image)

    def _drafts(
        self, decoding: list[Sequence], free_cells: int, *, beside_prompts: bool
    ) -> Mapping[int, tuple[int, ...]]:
        """Guesses for the decoding sequences, none beyond what a request may still generate."""
        room = min(self._limits.batch_tokens, free_cells) - sum(one.remaining for one in decoding)
        outputs = self._limits.output_rows - len(decoding)
        if beside_prompts:
            room, outputs = room - LEAST_CHUNK, outputs - 1
        able = [
            sequence
            for sequence in decoding
            if not (_scores(sequence) or sequence.forced or sequence.images) and _guessable(sequence)
        ]
        if self._speculator is None or not able or room < 1 or outputs < 1:
            return {}
        proposed = self._speculator.propose(able, room, outputs)
        return {sequence.id: proposed.get(sequence.id, ())[: _guessable(sequence)] for sequence in able}

    def _chunk(self, step: _Step, sequence: Sequence, wanted: int, decodes: bool) -> int:
        """How many of the `wanted` next tokens of a prompt the step still has room and time for."""
        scoring, least = _scores(sequence), 0
        most = min(step.tokens_left, step.outputs_left) if scoring else step.tokens_left
        if decodes:
            least = min(max(0, LEAST_CHUNK - step.prompt_tokens), most)
            most = max(least, min(most, self._affordable(step, most, scoring)))
        if wanted <= most:
            return wanted
        if step.tokens + most < TILE_TOKENS:
            return most
        return max(least, most - (step.tokens + most) % TILE_TOKENS)

    def _affordable(self, step: _Step, most: int, scoring: bool) -> int:
        """The largest chunk that keeps the step's predicted time under the target."""

        def seconds(count: int) -> float | None:
            return self._cost.predict(step.tokens + count, step.outputs + (count if scoring else 1))

        if seconds(0) is None:
            return UNKNOWN_CHUNK - step.prompt_tokens
        known = max(UNKNOWN_CHUNK, 2 * self._cost.largest_tokens)  # farther is felt for, not jumped to
        low, high = 0, max(0, min(most, known - step.tokens))
        while low < high:
            middle = (low + high + 1) // 2
            if (seconds(middle) or 0.0) <= self._limits.step_target_s:
                low = middle
            else:
                high = middle - 1
        return low


def _scores(sequence: Sequence) -> bool:
    """Whether every token of its prompt needs logits."""
    return not sequence.prompt_logprobs_sent


def _guessable(sequence: Sequence) -> int:
    """Of g tokens still to come the last need not be guessed: the pass itself draws one."""
    return max(0, sequence.max_new - sequence.generated - 1)


class _Step:
    """A pass in the making."""

    def __init__(self, limits: Limits) -> None:
        self.spans: list[Span] = []
        self.tokens = self.outputs = self.prompt_tokens = 0
        self._limits = limits

    @property
    def tokens_left(self) -> int:
        return self._limits.batch_tokens - self.tokens

    @property
    def outputs_left(self) -> int:
        return self._limits.output_rows - self.outputs

    def add(self, span: Span) -> None:
        self.spans.append(span)
        self.tokens += span.count
        self.outputs += span.outputs
