"""A public fake of the engine process: real protocol objects, scripted answers, no llama.cpp.

    engines = FakeEngines(answer=lambda message: "¡Hola!")
    app = create_app(settings, open_channel=engines.open)

Its vocabulary is Unicode: a token id is a code point, so that "¡Hola!" is six tokens and every count in a
test can be read off the text. U+0001 begins a text (BOS), U+0002 ends one (EOS).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence, Set

from llamaleon_server.engine import protocol
from llamaleon_server.engine.protocol import Delta, Failed, FailedCode, Finish, Generate, Reply, TokenLogprob
from llamaleon_server.engine.status import BankStatus, EngineStatus, HotAdapter, PrefixStatus, StepStatus

BOS, EOS = 1, 2
FIRST_LOGPROB = -0.25  # of every token; each alternative after it is one nat less likely
RANK, BANK_RANKS = 4, 32  # of every adapter, of the bank
VECTOR_SIZE = 8  # dimensions of embeddings
TIMINGS = protocol.Timings(queue_s=0.001, prefill_s=0.01, decode_s=0.1)


class Refusal(Exception):
    """Raised by an answer function: the engine answers `Failed`."""

    def __init__(self, code: FailedCode, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code: FailedCode = code
        self.param = param


class FakeEngine:
    """One engine. `received` are the messages it was sent, in order."""

    def __init__(
        self,
        answer: Callable[[Generate], str],
        *,
        context_tokens: int = 256,
        load_s: float = 0.0,
        fatal: str | None = None,
        refuses: Set[str] = frozenset(),
        gpus: Sequence[protocol.Gpu] = (),
    ) -> None:
        self.refuses = refuses  # keys of adapters
        self._gpus = list(gpus)
        self.received: list[protocol.ToEngine] = []
        self.adapters: dict[str, str] = {}  # key -> path
        self.pinned: set[str] = set()  # keys
        self.mute = False  # set: no answer to Status
        self.gate = asyncio.Event()  # cleared: no step runs
        self.gate.set()
        self.step_s = 0.0  # how long one token takes
        self.closed = False
        self._answer = answer
        self._context_tokens = context_tokens
        self._load_s = load_s
        self._fatal = fatal
        self._outgoing: asyncio.Queue[protocol.FromEngine | None] = asyncio.Queue()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._steps = self._prompt_tokens = 0
        self._loading = asyncio.create_task(self._load())

    # ------------------------------------------------------------ the channel

    @property
    def pid(self) -> int | None:
        return None

    def send(self, message: protocol.ToEngine) -> None:
        self.received.append(message)
        match message:
            case Generate():
                task = asyncio.create_task(self._generate(message))
                self._running[message.id] = task
                task.add_done_callback(lambda _: self._running.pop(message.id, None))
            case protocol.Cancel(number):
                if number in self._running:
                    self._running[number].cancel()
            case protocol.Shutdown():
                self.die()
            case protocol.Status() if self.mute:
                pass
            case _:
                self._outgoing.put_nowait(self._reply(message))

    async def receive(self) -> protocol.FromEngine | None:
        return await self._outgoing.get()

    def last_words(self) -> str:
        return "the fake engine was told to die"

    async def close(self) -> None:
        self.closed = True
        self.die()

    # ------------------------------------------------------------ for tests

    def die(self) -> None:
        """As `kill -9`: nothing more is sent."""
        self._loading.cancel()
        for task in self._running.values():
            task.cancel()
        self._outgoing.put_nowait(None)

    def sent(self, kind: type[protocol.ToEngine]) -> list[protocol.ToEngine]:
        """The received messages of one type."""
        return [message for message in self.received if isinstance(message, kind)]

    @property
    def running(self) -> int:
        return len(self._running)

    # ------------------------------------------------------------ inside

    async def _load(self) -> None:
        self._outgoing.put_nowait(protocol.LoadProgress(0.5))
        await asyncio.sleep(self._load_s)
        if self._fatal is not None:
            self._outgoing.put_nowait(protocol.Fatal(self._fatal))
            return
        self._outgoing.put_nowait(
            protocol.Ready(
                n_vocab=0x110000,
                context_tokens=self._context_tokens,
                train_context_tokens=self._context_tokens,
                parallel_sequences=8,
                bos_token_id=BOS,
                eos_token_id=EOS,
                end_token_ids=[EOS],
                adds_bos=True,
                gpu_layers=0,
                device="fake",
                model_bytes=0,
                n_params=0,
                load_s=self._load_s,
                gpus=self._gpus,
            )
        )

    def _reply(self, message: protocol.ToEngine) -> protocol.FromEngine:
        match message:
            case protocol.Tokenize(id=number, texts=texts, add_special=special):
                return Reply(id=number, tokens=[_tokens(text, add_special=special) for text in texts])
            case protocol.Detokenize(id=number, tokens=tokens):
                return Reply(id=number, pieces=[_piece(token) for token in tokens])
            case protocol.LoadAdapter():
                return self._load_adapter(message)
            case protocol.UnloadAdapter(id=number, key=key):
                self.adapters.pop(key, None)
                self.pinned.discard(key)
                return Reply(id=number)
            case protocol.Status(number):
                return Reply(id=number, status=self._status())
            case protocol.Embed():
                return self._embed(message)
            case protocol.Rank():
                return self._rank(message)
            case protocol.DumpLogits(id=number):
                return Failed(id=number, code="bad_request", message="The fake engine has no logits.")
        raise AssertionError(f"not a question: {message}")

    def _embed(self, message: protocol.Embed) -> protocol.FromEngine:
        """Counts of characters by code point modulo 8; an adapter adds its number, from 1, to the first."""
        if missing := [use.key for use in message.adapters if use.key not in self.adapters]:
            return Failed(id=message.id, code="adapter_unknown", message=f"never loaded: {missing}")
        inputs = [_tokens(one, add_special=True) if isinstance(one, str) else one for one in message.inputs]
        if message.truncate:
            inputs = [tokens[: self._context_tokens] for tokens in inputs]
        for at, tokens in enumerate(inputs):
            if len(tokens) > self._context_tokens:
                text = f"Input {at} has {len(tokens)} tokens, the model takes {self._context_tokens}."
                return Failed(id=message.id, code="context_length_exceeded", message=text, param="input")
        extra = sum(1 + list(self.adapters).index(use.key) for use in message.adapters)
        vectors = []
        for tokens in inputs:
            counts = [float(sum(token % VECTOR_SIZE == at for token in tokens)) for at in range(VECTOR_SIZE)]
            vectors.append(struct.pack(f"<{VECTOR_SIZE}f", counts[0] + extra, *counts[1:]))
        return Reply(id=message.id, vectors=vectors, input_tokens=[len(tokens) for tokens in inputs])

    def _rank(self, message: protocol.Rank) -> protocol.FromEngine:
        """The part of the query's words that a document has."""
        words = set(message.query.split())
        scores = [len(words & set(document.split())) / max(len(words), 1) for document in message.documents]
        lengths = [len(message.query) + len(document) + 3 for document in message.documents]
        return Reply(id=message.id, scores=scores, input_tokens=lengths)

    def _load_adapter(self, message: protocol.LoadAdapter) -> protocol.FromEngine:
        """Every path is taken, unless it has `refused` in it, and eight pins of rank 4."""
        if "refused" in message.path or message.key in self.refuses:
            reason = f"{message.path} does not fit."
            return Failed(id=message.id, code="adapter_refused", message=reason)
        if message.pinned and len(self.pinned) * RANK >= BANK_RANKS:
            return Failed(id=message.id, code="adapter_refused", message="The bank is full of pinned ones.")
        self.adapters[message.key] = message.path
        if message.pinned is not None:
            (self.pinned.add if message.pinned else self.pinned.discard)(message.key)
        loaded = protocol.AdapterLoaded(key=message.key, rank=RANK, tensors=2, bytes=0, load_s=0.0)
        return Reply(id=message.id, adapter=loaded)

    def _status(self) -> EngineStatus:
        return EngineStatus(
            running=self.running,
            waiting=0,
            kv_used_tokens=0,
            kv_total_tokens=self._context_tokens,
            adapters=list(self.adapters),
            resident_bytes=0,
            step=StepStatus(steps=self._steps, tokens_out=self._steps),
            bank=self._bank(),
            prefix=PrefixStatus(hit_tokens=0, prompt_tokens=self._prompt_tokens),
        )

    def _bank(self) -> BankStatus:
        hot = [
            HotAdapter(key=key, first_rank=at * RANK, rank=RANK, pinned=key in self.pinned, users=0)
            for at, key in enumerate(self.adapters)
        ]
        return BankStatus(
            mixing=True, total_ranks=BANK_RANKS, used_ranks=RANK * len(hot), hot=hot, copies=len(hot)
        )

    async def _generate(self, message: Generate) -> None:
        try:
            await self._generate_or_refuse(message)
        except Refusal as refusal:
            self._outgoing.put_nowait(
                Failed(id=message.id, code=refusal.code, message=str(refusal), param=refusal.param)
            )

    async def _generate_or_refuse(self, message: Generate) -> None:
        prompt = message.prompt
        tokens = _tokens(prompt, add_special=message.add_special) if isinstance(prompt, str) else prompt
        if len(tokens) > self._context_tokens:
            raise Refusal(
                "context_length_exceeded",
                f"The prompt has {len(tokens)} tokens, the context {self._context_tokens}.",
            )
        if missing := [use.key for use in message.adapters if use.key not in self.adapters]:
            raise Refusal("adapter_unknown", f"never loaded: {missing}")
        self._prompt_tokens += len(tokens)
        text, reason, stop = self._cut(message, self._answer(message))
        scored = None
        if message.prompt_logprobs is not None:
            scored = _logprobs(tokens, message.prompt_logprobs, first_has_none=True)
        finish = Finish(
            reason=reason,
            prompt_tokens=len(tokens),
            cached_tokens=0,
            completion_tokens=len(text),
            timings=TIMINGS,
            stop_string=stop,
            end=_logprobs([EOS], message.logprobs)[0]
            if message.logprobs is not None and reason == "stop" and stop is None
            else None,
        )
        if not text:
            await self._step(Delta(id=message.id, prompt=scored, finish=finish))
        for at, character in enumerate(text):
            token = ord(character)
            delta = Delta(
                id=message.id,
                text=character,
                tokens=[token],
                logprobs=None if message.logprobs is None else _logprobs([token], message.logprobs),
                prompt=scored if at == 0 else None,
                finish=finish if at == len(text) - 1 else None,
            )
            await self._step(delta)

    def _cut(self, message: Generate, text: str) -> tuple[str, str, str | None]:
        """Text, finish reason and stop string, as an engine that looks for them."""
        limit = len(text) if message.max_tokens is None else message.max_tokens
        reason = "stop" if limit > len(text) or message.max_tokens is None else "length"
        text = text[:limit]
        found = [(text.find(stop), stop) for stop in message.stop if stop in text]
        if not found:
            return text, reason, None
        at, stop = min(found)
        return text[:at], "stop", stop

    async def _step(self, delta: Delta) -> None:
        await self.gate.wait()
        self._steps += 1
        self._outgoing.put_nowait(protocol.Step([delta]))
        await asyncio.sleep(self.step_s)


class FakeEngines:
    """Opens fake engines for `create_app` and `Residents`; `opened` in order, with `names` of their bases."""

    def __init__(self, answer: Callable[[Generate], str] | None = None, *, context_tokens: int = 256) -> None:
        self.answer: Callable[[Generate], str] = answer or (lambda message: "Hola, ¿qué tal?")
        self.context_tokens = context_tokens
        self.load_s = 0.0
        self.refuses: set[str] = set()  # keys of adapters, in all engines
        self.fatal: str | None = None  # set: engines opened from now on cannot load, for this reason
        self.gpus: list[protocol.Gpu] = []  # of the machine, as engines opened from now on say
        self.opened: list[FakeEngine] = []
        self.names: list[str] = []

    async def open(self, base: object) -> FakeEngine:
        engine = FakeEngine(
            self._ask,
            context_tokens=self.context_tokens,
            load_s=self.load_s,
            fatal=self.fatal,
            refuses=self.refuses,
            gpus=self.gpus,
        )
        self.opened.append(engine)
        self.names.append(str(getattr(base, "name", base)))
        return engine

    def _ask(self, message: Generate) -> str:
        return self.answer(message)  # looked up now: a test may change it while the engine runs

    @property
    def last(self) -> FakeEngine:
        return self.opened[-1]


def _tokens(text: str, *, add_special: bool) -> list[int]:
    return [BOS] * add_special + [ord(character) for character in text]


def _piece(token: int) -> bytes:
    return {BOS: b"<s>", EOS: b"</s>"}.get(token) or chr(token).encode()


def _logprobs(
    tokens: Sequence[int], alternatives: int, *, first_has_none: bool = False
) -> list[TokenLogprob]:
    found = []
    for at, token in enumerate(tokens):
        others = [(token + step, _piece(token + step), FIRST_LOGPROB - step) for step in range(alternatives)]
        if first_has_none and at == 0:
            found.append(TokenLogprob(token, _piece(token), None))
        else:
            found.append(TokenLogprob(token, _piece(token), FIRST_LOGPROB, others))
    return found
