"""Guesses tokens ahead by prompt lookup: what followed the last few tokens when they stood there before.

One pass over several guessed tokens costs less than as many passes, if enough of them come true. Whether they
do is estimated for each sequence, from guesses that nobody has to compute: every token drawn is compared with
what the lookup would have said. So guessing starts by itself where a text begins to repeat, and stops where
it does not.
"""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from llamaleon_server.engine.scheduling.sizes import Cost, PassSizes
from llamaleon_server.engine.sequence import Sequence

ORDERS = (4, 3, 2)  # tokens that must have stood there before; the longest match counts
# What the token after a match is at first believed to be worth, by order: more than in most texts, less than
# where one copies.
FIRST_CHANCE = {4: 0.8, 3: 0.7, 2: 0.5}
ADAPTS = 0.15  # how much one guess changes that belief
TRUST_ADAPTS = 0.2  # how much one pass with guesses changes the trust in the chances of a sequence...
TRUST_RETURNS = 0.01  # ...and how much of what is missing comes back with each pass
MOST_GUESSES = 16  # of one sequence in one pass
LEAST_CHANCE = 0.05
INDEXED_PER_STEP = 1536  # tokens; about 1.5 ms
INDEXED_TOKENS = 32_768  # of one sequence; some 500 bytes each, a small part of what a token's KV takes
MARGIN = 1.05  # a gain that is only predicted must be seen to be one
# Where good guesses seem too dear they are tried all the same, once in so many passes: what a pass costs was
# perhaps learned while the machine was busy, and passes without guesses teach nothing else.
TRIAL_PASSES = 50
TRIAL_CHANCE = 0.6


Candidate = tuple[float, int]  # the probability that a guess is right, the number of its sequence


class NgramIndex:
    """Where in a growing list of tokens its last tokens stood before."""

    def __init__(self, limit: int = INDEXED_TOKENS) -> None:
        self._limit = limit
        self._begin = self._end = 0  # of the places that are known
        self._after: dict[int, dict[tuple[int, ...], int]] = {order: {} for order in ORDERS}

    def extend(self, tokens: ListOf[int], most: int) -> int:
        """Take in at most `most` more tokens. Returns: how many were taken in."""
        if self._end - self._begin >= self._limit:  # forget all and read the later half again
            self._begin = self._end = len(tokens) - self._limit // 2
            for places in self._after.values():
                places.clear()
        begin, self._end = self._end, min(len(tokens), self._end + most)
        for place in range(begin, self._end):
            for order, places in self._after.items():
                if place - order >= self._begin:
                    places[tuple(tokens[place - order : place])] = place
        return self._end - begin

    def find(self, tokens: ListOf[int]) -> tuple[int, int] | None:
        """(place, order): the last `order` tokens also stand before it; longest match first, then latest."""
        for order, places in self._after.items():
            place = places.get(tuple(tokens[-order:]))
            if place is not None:
                return place, order
        return None


@dataclass(eq=False)
class Guessing:
    """What is known of one sequence: its index, its last guesses, and how often such came true."""

    index: NgramIndex = field(default_factory=NgramIndex)
    chance: dict[int, float] = field(default_factory=FIRST_CHANCE.copy)
    guesses: list[int] = field(default_factory=list)
    sent: int = 0  # how many of them the last pass computed
    trust: float = 1.0  # what came of such, over what was hoped: long runs may end sooner than chances say
    _order: int = 0  # of the match that they come from
    _begin: int = 0  # where they would stand

    def update(self, tokens: list[int], most: int) -> int:
        """Read what was drawn since, and guess anew. Returns: tokens taken into the index."""
        self._learn(tokens)
        read = self.index.extend(tokens, most)
        self.guesses, self.sent, self._begin = [], 0, len(tokens)
        found = self.index.find(tokens)
        if found is not None:
            place, self._order = found
            self.guesses = _continued(tokens, place)
        return read

    def _learn(self, tokens: list[int]) -> None:
        """Compare the last guesses with what came, up to the first that was wrong."""
        if self.sent and len(tokens) > self._begin:
            right = _agreeing(self.guesses[: self.sent], tokens[self._begin :])
            hoped = sum(self._chances()[: self.sent])
            self.trust += TRUST_ADAPTS * (min(right / hoped, 1.0) - self.trust)
        self.trust += TRUST_RETURNS * (1.0 - self.trust)
        for distance, (guess, token) in enumerate(zip(self.guesses, tokens[self._begin :], strict=False)):
            order = self._order_at(distance)
            self.chance[order] += ADAPTS * ((guess == token) - self.chance[order])
            if guess != token:
                return

    def _order_at(self, distance: int) -> int:
        """A guess rests on those before it too: if they are right, its match is that much longer."""
        return min(self._order + distance, ORDERS[0])

    def chances(self) -> list[float]:
        """For each guess worth a thought, the probability that it and all before it are right."""
        return [self.trust * chance for chance in self._chances()]

    def _chances(self) -> list[float]:
        """The same, as the hits of single guesses have it."""
        result: list[float] = []
        chance = 1.0
        for distance in range(len(self.guesses)):
            chance *= self.chance[self._order_at(distance)]
            if chance < LEAST_CHANCE:
                break
            result.append(chance)
        return result


def _agreeing(guesses: list[int], tokens: list[int]) -> int:
    """How many, from the first, are the same."""
    for number, (guess, token) in enumerate(zip(guesses, tokens, strict=False)):
        if guess != token:
            return number
    return min(len(guesses), len(tokens))


def _continued(tokens: list[int], place: int) -> list[int]:
    """What followed there; where that runs into the end, it goes on with itself, as a loop does."""
    guesses = tokens[place : place + MOST_GUESSES]
    while len(guesses) < MOST_GUESSES:
        guesses += guesses[: MOST_GUESSES - len(guesses)]
    return guesses


class Speculator:
    """Chooses the guesses that a pass is worth lengthening for. The engine alone calls it."""

    def __init__(self, cost: Cost) -> None:
        self._sizes = PassSizes(cost)
        self._known: WeakKeyDictionary[Sequence, Guessing] = WeakKeyDictionary()
        self._refused = 0  # passes since the last guess, of those that had good ones

    def observe(self, tokens: int, outputs: int, seconds: float) -> None:
        """Take in what a pass took."""
        if tokens == outputs:
            self._sizes.observe(tokens, seconds)

    def propose(self, decoding: list[Sequence], tokens: int, outputs: int) -> dict[int, tuple[int, ...]]:
        """Guesses by sequence id: in sum at most `tokens` of them, and at most `outputs` rows of logits."""
        unread = INDEXED_PER_STEP
        guessing = [self._guessing(sequence) for sequence in decoding]
        candidates: list[Candidate] = []
        for number, (sequence, known) in enumerate(zip(decoding, guessing, strict=True)):
            unread -= known.update(sequence.tokens, unread)
            if sequence.grammar is not None:
                del known.guesses[sequence.grammar.fitting(known.guesses) :]
            candidates += [(chance, number) for chance in known.chances()]
        candidates.sort(key=lambda candidate: -candidate[0])
        for _, number in self._chosen(candidates[: min(tokens, outputs)], len(decoding)):
            guessing[number].sent += 1
        return {
            sequence.id: tuple(known.guesses[: known.sent])
            for sequence, known in zip(decoding, guessing, strict=True)
            if known.sent
        }

    def _guessing(self, sequence: Sequence) -> Guessing:
        known = self._known.get(sequence)
        if known is None:
            known = self._known[sequence] = Guessing()
        return known

    def _chosen(self, candidates: list[Candidate], streams: int) -> list[Candidate]:
        """Those that make the pass give more tokens per second, likeliest first; seldom others, to learn."""
        seconds = self._sizes.predict(streams)
        if seconds is None or not candidates:
            return []
        count = self._worth(candidates, streams, seconds)
        if count == 0 and candidates[0][0] >= TRIAL_CHANCE:
            self._refused += 1
            if self._refused < TRIAL_PASSES:
                return []
            count = sum(chance >= TRIAL_CHANCE for chance, _ in candidates[:MOST_GUESSES])
        self._refused = 0
        return candidates[:count]

    def _worth(self, candidates: list[Candidate], streams: int, seconds: float) -> int:
        """How many to take for the most tokens per second, if a pass without any takes so many seconds."""
        expected, best, count = float(streams), MARGIN * streams / seconds, 0
        for number, (chance, _) in enumerate(candidates, 1):
            longer = self._sizes.predict(streams + number)
            if longer is None:
                break
            expected += chance
            if expected / longer > best:
                best, count = expected / longer, number
        return count
