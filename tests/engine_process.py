"""A real engine process, spoken to over its pipes: for tests and benchmarks of the engine alone."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from llamaleon_server.engine import protocol
from llamaleon_server.engine.channel import LENGTH
from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.engine.status import EngineStatus


@dataclass
class Answer:
    """All that came back for one generate request."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[protocol.TokenLogprob] = field(default_factory=list)
    prompt: list[protocol.TokenLogprob] | None = None
    finish: protocol.Finish | None = None
    failed: protocol.Failed | None = None
    deltas: int = 0

    def add(self, delta: protocol.Delta) -> None:
        self.text += delta.text
        self.tokens += delta.tokens
        self.logprobs += delta.logprobs or []
        self.prompt = delta.prompt if delta.prompt is not None else self.prompt
        self.finish = delta.finish
        self.deltas += 1

    @property
    def done(self) -> protocol.Finish:
        assert self.failed is None, self.failed
        assert self.finish is not None, "the request has not finished"
        return self.finish


class EngineProcess:
    """Start, speak, stop. Everything blocks; a hanging engine fails the test by its timeout."""

    module = "llamaleon_server.engine"

    def __init__(self, model: Path, **options: Any) -> None:
        spec = msgspec.json.encode(EngineOptions(model_path=str(model), **options)).decode()
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, spec],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ,
        )
        self._decoder = msgspec.msgpack.Decoder(protocol.FromEngine)
        self._ids = itertools.count(1)
        self.answers: dict[int, Answer] = {}
        self.replies: dict[int, protocol.Reply | protocol.Failed] = {}
        self.progress: list[float] = []
        self.fatal: protocol.Fatal | None = None
        self.ready: protocol.Ready = self._start()

    def _start(self) -> protocol.Ready:
        while True:
            message = self.receive()
            if isinstance(message, protocol.Ready):
                return message
            if isinstance(message, protocol.Fatal) or message is None:
                self.close()
                raise EngineDied(message.message if message else f"exit status {self.process.returncode}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its input and wait for its end. Raises: TimeoutExpired if it does not end by itself."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # what it did not read any more
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()

    def send(self, message: protocol.ToEngine) -> None:
        self.send_bytes(msgspec.msgpack.encode(message))

    def send_bytes(self, body: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(LENGTH.pack(len(body)) + body)
        self.process.stdin.flush()

    def receive(self) -> protocol.FromEngine | None:
        """The next message, filed under its request; None at the end of the stream."""
        assert self.process.stdout is not None
        head = self.process.stdout.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack(head)
        message: protocol.FromEngine = self._decoder.decode(self.process.stdout.read(length))
        match message:
            case protocol.Step():
                for delta in message.deltas:
                    self.answers[delta.id].add(delta)
            case protocol.Failed() if message.id in self.answers:
                self.answers[message.id].failed = message
            case protocol.Reply() | protocol.Failed():
                self.replies[message.id] = message
            case protocol.LoadProgress():
                self.progress.append(message.fraction)
        return message

    def new_id(self) -> int:
        return next(self._ids)

    def start(self, prompt: str | list[int], **fields: Any) -> int:
        """Send a generate request; greedy unless `sampling` says otherwise."""
        number = self.new_id()
        fields.setdefault("sampling", protocol.Sampling(temperature=0.0))
        self.answers[number] = Answer()
        self.send(protocol.Generate(id=number, prompt=prompt, **fields))
        return number

    def wait(self, numbers: Sequence[int]) -> list[Answer]:
        def is_open(answer: Answer) -> bool:
            return answer.finish is None and answer.failed is None

        while any(is_open(self.answers[number]) for number in numbers):
            if self.receive() is None:
                raise EngineDied(f"exit status {self.process.wait()}")
        return [self.answers[number] for number in numbers]

    def generate(self, prompt: str | list[int], **fields: Any) -> Answer:
        return self.wait([self.start(prompt, **fields)])[0]

    def wait_reply(self, number: int) -> protocol.Reply | protocol.Failed:
        while number not in self.replies:
            if self.receive() is None:
                raise EngineDied(f"exit status {self.process.wait()}")
        return self.replies[number]

    def ask(self, kind: type[Any], **fields: Any) -> protocol.Reply:
        """Send a message that wants one reply. Raises: AssertionError if it failed."""
        reply = self.try_ask(kind, **fields)
        assert isinstance(reply, protocol.Reply), reply
        return reply

    def try_ask(self, kind: type[Any], **fields: Any) -> protocol.Reply | protocol.Failed:
        number = self.new_id()
        self.send(kind(id=number, **fields))
        return self.wait_reply(number)

    def load(self, key: str, path: Path) -> protocol.AdapterLoaded:
        adapter = self.ask(protocol.LoadAdapter, key=key, path=str(path)).adapter
        assert adapter is not None
        return adapter

    @property
    def status(self) -> EngineStatus:
        status = self.ask(protocol.Status).status
        assert status is not None
        return status


class EngineDied(Exception):
    """The engine's stream ended, or it said `Fatal`: the message."""
