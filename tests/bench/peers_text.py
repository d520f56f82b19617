"""What the servers say: greedy answers of nano, bare and under an adapter, compared character by character.

Where texts part, the margin of the first different token tells rounding from a mistake: how far the model
preferred it to the next best, in nats.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.load import Body, listen
from tests.bench.options import Options
from tests.bench.peers import LLAMA, PYTHON
from tests.bench.servers import LlamaServer, Ours, PythonServer, Server, Serving, python_server_problem
from tests.data import NANO
from tests.lora import random_lora

TOKENS = 48
PROMPTS = (
    "Extract the name and the date.\n\nInvoice of 3 March 2024, Ana Ruiz.\n\n",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "Érase una vez",
    "def add(a, b):\n",
    "The customer reported that",
    '{"name": "',
    "Resume el texto: la máquina se paró a las ocho.\n",
    "1, 2, 3, 4,",
)


@dataclass(frozen=True)
class Parting:
    """Where a peer's text leaves ours: after `at` tokens of ours, one preferred by `margin` nats."""

    at: int
    margin: float


def measure(scratch: Path, options: Options) -> list[Figure]:
    folder = scratch / "adapters"
    folder.mkdir()
    adapter = random_lora(NANO, folder / "random.gguf", seed=5, rank=8, strength=0.3)
    serving = Serving(NANO, (adapter,), context=512)
    figures = []
    with ExitStack() as stack:
        ours = stack.enter_context(Ours(serving, scratch / "home"))
        for chosen in (None, adapter):
            for peer in peers(serving, scratch, options, adapter, chosen):
                with peer:
                    figures.append(compared(ours, peer, chosen))
    return figures


def peers(
    serving: Serving, scratch: Path, options: Options, adapter: Path, chosen: Path | None
) -> list[Server]:
    """One at a time: llama_cpp.server takes its adapter at start."""
    found: list[Server] = []
    if options.llama_server is not None:
        found.append(LlamaServer(serving, options.llama_server, [adapter], scratch / f"{LLAMA}.log"))
    if python_server_problem() is None:
        found.append(PythonServer(serving, scratch / f"{PYTHON}.log", chosen))
    return found


def compared(ours: Server, peer: Server, adapter: Path | None) -> Figure:
    partings = []
    for prompt in PROMPTS:
        said = listen(peer.client, _body(peer, prompt, adapter)).text
        if parting := first_difference(ours, prompt, adapter, said):
            partings.append(parting)
    equal = len(PROMPTS) - len(partings)
    shown = f"{equal} of {len(PROMPTS)} equal"
    if partings:
        places = ", ".join(f"token {one.at + 1} by {one.margin:.1e}" for one in partings)
        shown += f"; the others part at {places} nats"
    under = "bare" if adapter is None else "under a random rank-8 adapter"
    widest = max((one.margin for one in partings), default=0.0)
    return Figure(
        f"nano {under}, greedy, {TOKENS} tokens, text against {peer.name}",
        shown,
        "equal, or parting at a near tie",
        {"equal": float(equal), "prompts": float(len(PROMPTS)), "widest_margin_nats": widest},
    )


def first_difference(ours: Server, prompt: str, adapter: Path | None, said: str) -> Parting | None:
    """Ours is asked again, with the alternatives of each token. None where the texts are equal."""
    body = {**_body(ours, prompt, adapter), "stream": False, "logprobs": 2}
    del body["stream_options"]
    answer = ours.client.post("/v1/completions", json=body).raise_for_status().json()
    [choice] = answer["choices"]
    if choice["text"] == said:
        return None
    begun = ""
    logprobs = choice["logprobs"]
    for at, (token, top) in enumerate(zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)):
        begun += token
        if not said.startswith(begun):
            best, second = sorted(top.values(), reverse=True)[:2]
            return Parting(at, best - second)
    return Parting(len(logprobs["tokens"]), 0.0)  # one of them went on


def _body(server: Server, prompt: str, adapter: Path | None) -> Body:
    """Until the model ends by itself, which llama_cpp.server cannot be kept from."""
    return {**server.body(prompt, TOKENS, adapter), "ignore_eos": False}
