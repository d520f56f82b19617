"""Random request mixes: what may happen to an engine, drawn by hypothesis, done and judged by `Play`."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tests.engine_process import EngineDied, EngineProcess
from tests.lora import random_lora
from tests.unit.server.engine.reference import Reference, Uses

from llamaleon_server.engine.protocol import AdapterUse, Cancel, LoadAdapter, Reply, UnloadAdapter
from llamaleon_server.engine.status import EngineStatus

LONGEST_PROMPT = 120
MOST_TOKENS = 24
FIRST_WORD, WORDS = 259, 253  # of the vocabulary: whole pieces, no byte and no control token
SETTLE_S = 10.0

# Name of an adapter to what its file is like. Every name comes in two versions of different contents.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"rank": 4},
    "wide": {"rank": 16, "dtype": "F16"},
    "attention": {"rank": 8, "targets": ("attn_q", "attn_v"), "scale": 2.0},
    "down": {"rank": 2, "targets": ("ffn_down",), "strength": 1.5},
    "uneven": {"rank": 6, "scale": 0.5, "uneven": True},
    "half": {"rank": 3, "dtype": "F16", "scale": None},
    "single": {"rank": 1, "targets": ("attn_k", "attn_output", "ffn_gate", "ffn_up")},
    "quiet": {"rank": 5, "strength": 0.05},
}
NAMES = tuple(KINDS)


@dataclass(frozen=True)
class File:
    path: Path
    key: str


def make_files(base: Path, folder: Path) -> dict[tuple[str, int], File]:
    files = {}
    for number, name in enumerate(NAMES):
        for version in (0, 1):
            path = folder / f"{name}-{version}.gguf"
            random_lora(base, path, seed=2 * number + version, **KINDS[name])
            files[name, version] = File(path, hashlib.sha256(path.read_bytes()).hexdigest())
    return files


# ---------------------------------------------------------------- events


@dataclass(frozen=True)
class Ask:
    """A prompt is the first `shared` tokens of beginning number `beginning`, then `own` of its own."""

    beginning: int
    shared: int
    own: int
    seed: int
    uses: tuple[tuple[str, float], ...]
    max_tokens: int
    cache_prompt: bool = True
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    @property
    def prompt(self) -> list[int]:
        common = random.Random(self.beginning).choices(range(FIRST_WORD, FIRST_WORD + WORDS), k=60)
        dice = random.Random(1000 + self.seed)
        own = dice.choices(range(FIRST_WORD, FIRST_WORD + WORDS), k=60)
        if self.seed == 0:  # repeats itself, as texts do that are copied from
            own = own[:7] * 9
        return [1, *common[: self.shared], *own[: self.own]]


@dataclass(frozen=True)
class Receive:
    messages: int


@dataclass(frozen=True)
class Stop:
    """Cancel one of the open requests, counted round."""

    which: int


@dataclass(frozen=True)
class Unload:
    name: str


@dataclass(frozen=True)
class Replace:
    """Unload an adapter and load another version under its name, which is another key."""

    name: str


Event = Ask | Receive | Stop | Unload | Replace

WEIGHTS = st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.7, 0.3, -1.0, 2.0, 0.0])
BLENDS = st.one_of(
    st.just(()),
    st.sampled_from(NAMES).map(lambda name: ((name, 1.0),)),
    st.lists(
        st.tuples(st.sampled_from(NAMES), WEIGHTS), min_size=1, max_size=3, unique_by=lambda use: use[0]
    ).map(tuple),
)
ASKS = st.builds(
    Ask,
    beginning=st.integers(0, 2),
    shared=st.sampled_from([0, 1, 16, 17, 40, 59]),
    own=st.integers(0, 60),
    seed=st.integers(0, 3),
    uses=BLENDS,
    max_tokens=st.integers(0, MOST_TOKENS),
    cache_prompt=st.sampled_from([True, True, True, False]),
    ignore_eos=st.booleans(),
    logprobs=st.sampled_from([None, None, 0, 5]),
    prompt_logprobs=st.sampled_from([None, None, None, None, 1]),
)
RECEIVES = st.builds(Receive, st.integers(1, 12))
NAMED = st.sampled_from(NAMES)
CHANGES = (st.builds(Stop, st.integers(0, 50)), st.builds(Unload, NAMED), st.builds(Replace, NAMED))
# Some requests, then something else: 25 to 40 requests a mix. Of a flat list hypothesis fills far less.
ROUNDS = st.tuples(st.lists(ASKS, min_size=2, max_size=4), st.one_of(RECEIVES, *CHANGES))
MIXES = st.lists(ROUNDS, min_size=10, max_size=13).map(
    lambda rounds: [event for asks, other in rounds for event in (*asks, other)]
)


# ---------------------------------------------------------------- doing it


@dataclass
class Play:
    """One mix on one engine. An adapter is loaded when first asked for, and again after it was missed.

    Those called one of the names in `bad` compute numbers that are not finite.
    """

    engine: EngineProcess
    files: dict[tuple[str, int], File]
    reference: Reference
    bad: frozenset[str] = frozenset()
    version: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    loaded: set[str] = field(default_factory=set)
    unloaded: set[str] = field(default_factory=set)  # and not asked for since
    asked: dict[int, tuple[Ask, Uses]] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    cancelled: set[int] = field(default_factory=set)
    replies: list[int] = field(default_factory=list)

    def run(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Ask():
                    self._ask(event)
                case Receive():
                    self._receive(event.messages)
                case Stop():
                    self._stop(event.which)
                case Unload():
                    self._unload(event.name)
                case Replace():
                    self._replace(event.name)
        self._finish()
        self._judge()
        self._assert_nothing_is_left()

    def _file(self, name: str) -> File:
        return self.files[name, self.version[name]]

    def _ask(self, ask: Ask) -> None:
        names = {name for name, _ in ask.uses}
        for name in sorted(names - self.loaded - self.unloaded):
            self._load(name)
        number = self.engine.start(
            ask.prompt,
            adapters=tuple(AdapterUse(self._file(name).key, weight) for name, weight in ask.uses),
            max_tokens=ask.max_tokens,
            cache_prompt=ask.cache_prompt,
            ignore_eos=ask.ignore_eos,
            logprobs=ask.logprobs,
            prompt_logprobs=ask.prompt_logprobs,
        )
        if names & self.unloaded:
            self.refused.append(number)
            self.unloaded -= names
        else:
            self.asked[number] = ask, tuple((self._file(name).path, weight) for name, weight in ask.uses)

    def _load(self, name: str) -> None:
        file = self._file(name)
        number = self.engine.new_id()
        self.engine.send(LoadAdapter(id=number, key=file.key, path=str(file.path)))
        self.replies.append(number)
        self.loaded.add(name)
        while number not in self.engine.replies:  # until then a request would be refused
            self._hear()

    def _unload(self, name: str) -> None:
        if name in self.loaded:
            number = self.engine.new_id()
            self.engine.send(UnloadAdapter(id=number, key=self._file(name).key))
            self.replies.append(number)
            self.loaded.remove(name)
            self.unloaded.add(name)

    def _replace(self, name: str) -> None:
        if name in self.loaded:
            self._unload(name)
            self.unloaded.remove(name)
            self.version[name] = 1 - self.version[name]
            self._load(name)

    def _open(self) -> list[int]:
        answers = self.engine.answers
        waiting = [number for number in [*self.asked, *self.refused] if number not in self.cancelled]
        return [n for n in waiting if answers[n].finish is None and answers[n].failed is None]

    def _receive(self, messages: int) -> None:
        for _ in range(messages):
            if not self._open():
                return
            self._hear()

    def _hear(self) -> None:
        if self.engine.receive() is None:
            raise EngineDied(f"exit status {self.engine.process.wait()}")

    def _stop(self, which: int) -> None:
        if still := [number for number in self._open() if number in self.asked]:
            number = still[which % len(still)]
            self.engine.send(Cancel(id=number))
            self.cancelled.add(number)

    def _finish(self) -> None:
        while self._open():
            self._hear()
        for name in sorted(self.loaded):
            self._unload(name)
        for number in self.replies:
            assert isinstance(self.engine.wait_reply(number), Reply), self.engine.replies[number]

    # ------------------------------------------------------------ judging

    def _judge(self) -> None:
        for number in self.refused:
            failed = self.engine.answers[number].failed
            assert failed is not None
            assert failed.code == "adapter_unknown"
        for number, (ask, uses) in self.asked.items():
            answer = self.engine.answers[number]
            if any(name in self.bad and weight for name, weight in ask.uses):
                assert not answer.tokens, ask
                assert answer.failed is None or answer.failed.code == "engine_error", ask
                assert answer.failed is not None or number in self.cancelled or not ask.max_tokens, ask
                continue
            assert answer.failed is None, (answer.failed, ask)
            self.reference.judge(ask.prompt, uses, answer, ignore_eos=ask.ignore_eos, about=ask)
            if answer.finish is not None:
                done = answer.finish
                assert done.prompt_tokens == len(ask.prompt)
                assert done.completion_tokens == len(answer.tokens) + (done.reason == "stop"), ask
                assert done.reason == "stop" or done.completion_tokens == ask.max_tokens, ask
                assert (answer.prompt is not None) == (ask.prompt_logprobs is not None), ask
                assert len(answer.logprobs) == (0 if ask.logprobs is None else len(answer.tokens)), ask

    def _assert_nothing_is_left(self) -> None:
        """No request, no adapter, no cell; and one request can still have the whole cache."""
        status = self._settled()
        assert (status.running, status.waiting, status.adapters, status.bank.hot) == (0, 0, [], [])
        assert status.kv_used_tokens <= status.prefix.tokens, "prefixes may share cells, nobody else has any"
        whole = [1, *random.Random(5).choices(range(FIRST_WORD, 512), k=self.engine.ready.context_tokens - 2)]
        answer = self.engine.generate(whole, max_tokens=1, cache_prompt=False, ignore_eos=True)
        assert answer.done.completion_tokens == 1
        status = self._settled()
        if self.engine.ready.context_tokens == status.kv_total_tokens:
            assert (status.prefix.tokens, status.kv_used_tokens) == (0, 0)

    def _settled(self) -> EngineStatus:
        """The status once the engine's thread has done what it was told: the reader answers before it."""
        end = time.monotonic() + SETTLE_S
        while True:
            status = self.engine.status
            if not (status.running or status.waiting or status.adapters) or time.monotonic() > end:
                return status
            time.sleep(0.005)
