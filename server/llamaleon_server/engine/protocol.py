"""Messages between the API process and an engine process.

Frames travel over the engine's standard input and output: a 4-byte little-endian length, then one
msgpack-encoded tagged struct. The engine's own logs go to standard error. End of file on either side
means that the other process is gone: the engine then exits, the API then fails the running requests.

Words: `adapter key` is the sha256 of the GGUF LoRA file's bytes, never a name; `weight` is the
per-request multiplier (dimensionless); token ids are ints of the served vocabulary.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from llamaleon_server.engine.status import EngineStatus

# ---------------------------------------------------------------- API -> engine


class AdapterUse(Struct, frozen=True, array_like=True, cache_hash=True):
    """One adapter of a request. The base alone is the empty tuple of uses."""

    key: str
    weight: float = 1.0


class Sampling(Struct, frozen=True, kw_only=True):
    """OpenAI's sampling fields and llama.cpp's extensions. `temperature == 0` is greedy.

    Applied in llama.cpp's order: bias, penalties, top_k, top_p, min_p, temperature. The repeat penalty also
    sees the end of the prompt; OpenAI's two penalties only what was generated.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit asked for
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    logit_bias: dict[int, float] = {}


class GenerateRequest(Struct, frozen=True, kw_only=True):
    """One sequence to run, before it is known which engine runs it with which adapters.

    `max_tokens` None means "until the context is full"; 0 evaluates the prompt only (scoring).
    `logprobs`/`prompt_logprobs`: None for none, else how many alternatives beside the token itself
    (0 to 20); they are of the model's raw distribution, before temperature and truncation. With
    `prompt_logprobs` nothing of the prompt is taken from the prefix cache.
    """

    prompt: str | list[int]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    context_tokens: int | None = None  # most of prompt and answer together, where the engine has more
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    ignore_eos: bool = False
    cache_prompt: bool = True
    add_special: bool = True  # prepend BOS where the vocabulary asks for it (string prompts only)
    parse_special: bool = True  # read `<|im_end|>` and the like in a string prompt as control tokens...
    breaks: tuple[int, ...] = ()  # ...but none over these places (characters from the prompt's beginning)
    parse_special_output: bool = False  # render control tokens in the output text
    # What may be generated, as a grammar of llguidance: Lark text, or its JSON form. None: anything.
    grammar: str | None = None
    # Encoded images (PNG, JPEG, ...), one for each `MEDIA_MARKER` in a string prompt, in that order.
    media: tuple[bytes, ...] = ()


class Generate(GenerateRequest, frozen=True, kw_only=True, tag="generate"):
    """Run one sequence. Answered by deltas in `Step` messages, the last with `finish`, or by `Failed`."""

    id: int
    adapters: tuple[AdapterUse, ...] = ()


MEDIA_MARKER = "<__media__>"  # mtmd's own


class Embed(Struct, frozen=True, kw_only=True, tag="embed"):
    """One vector for each input. Reply: `vectors`, `input_tokens`.

    Pooled as the model was trained to be, else by the mean over the tokens; not normalised. Evaluated between
    the steps of running requests, in a context of their own.
    Failed with `context_length_exceeded` if an input does not fit (`truncate` cuts it instead, and keeps a
    token that ends every text), `bad_request` if the model cannot embed.
    """

    id: int
    inputs: list[str | list[int]]
    truncate: bool = False
    adapters: tuple[AdapterUse, ...] = ()


class Rank(Struct, frozen=True, kw_only=True, tag="rank"):
    """How relevant each document is to the query, by a reranking model. Reply: `scores`, `input_tokens`."""

    id: int
    query: str
    documents: list[str]


class Cancel(Struct, frozen=True, tag="cancel"):
    """The client is gone: the sequence stops costing within one step. No answer."""

    id: int


class LoadAdapter(Struct, frozen=True, kw_only=True, tag="load_adapter"):
    """Make an adapter usable. Idempotent by key, the pin aside. Reply: `AdapterLoaded`.

    A pinned adapter stays in the bank, whatever else is asked for; `pinned` None leaves that as it is.
    Failed with code `adapter_refused` if the file does not fit the base, or if a tensor of it would be
    silently ignored by the model's graph (named in the message).
    """

    id: int
    key: str
    path: str
    pinned: bool | None = None


class UnloadAdapter(Struct, frozen=True, kw_only=True, tag="unload_adapter"):
    """Forget an adapter once no running sequence uses it. Reply: null."""

    id: int
    key: str


class Tokenize(Struct, frozen=True, kw_only=True, tag="tokenize"):
    """Reply: `list[list[int]]`, one per text. Answered at once, also while a step runs."""

    id: int
    texts: list[str]
    add_special: bool = False
    parse_special: bool = True
    breaks: list[tuple[int, ...]] = []  # of each text as of a prompt, or nothing for all of them


class Detokenize(Struct, frozen=True, kw_only=True, tag="detokenize"):
    """Reply: `list[bytes]`, the bytes of each token on its own (control tokens included)."""

    id: int
    tokens: list[int]


class DumpLogits(Struct, frozen=True, kw_only=True, tag="dump_logits"):
    """Write float32 logits of every position of every sequence, for the parity proof. Reply: null.

    `path` becomes an `.npz` with arrays `"0"`, `"1"`, ... of shape `(n_tokens_of_sequence, n_vocab)`.
    Sequences are evaluated one at a time between the steps of running requests, in a context of their own
    without flash attention and with a 32-bit cache: as exact as llama.cpp can be.
    """

    id: int
    sequences: list[list[int]]
    adapters: tuple[AdapterUse, ...] = ()
    path: str


class Status(Struct, frozen=True, tag="status"):
    """Reply: `EngineStatus`."""

    id: int


class Shutdown(Struct, frozen=True, tag="shutdown"):
    """Finish nothing, free the model, exit 0."""


ToEngine = (
    Generate
    | Embed
    | Rank
    | Cancel
    | LoadAdapter
    | UnloadAdapter
    | Tokenize
    | Detokenize
    | DumpLogits
    | Status
    | Shutdown
)

# ---------------------------------------------------------------- engine -> API


class Gpu(Struct, frozen=True, kw_only=True):
    """An accelerator, as it was just after the model was loaded."""

    name: str
    free_bytes: int
    total_bytes: int


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """First message: the model is loaded. `context_tokens` is the longest sequence one request may use."""

    n_vocab: int
    context_tokens: int
    train_context_tokens: int
    parallel_sequences: int
    bos_token_id: int | None
    eos_token_id: int | None
    end_token_ids: list[int]
    adds_bos: bool
    gpu_layers: int
    device: str
    model_bytes: int
    n_params: int
    load_s: float
    kv_tokens: int = 0  # of all requests together
    kv_bytes: int = 0  # an estimate, exact for plain attention
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    flash_attention: bool | None = None
    batch_tokens: int = 0
    threads: int = 0
    rope: dict[
        str, int | float | str
    ] = {}  # what was asked for, by llama.cpp's names; the rest is the GGUF's
    automatic: dict[str, str] = {}  # options that were left to the engine -> why it chose as it did
    gpus: list[Gpu] = []


class LoadProgress(Struct, frozen=True, tag="load_progress"):
    """0.0 to 1.0, at most ten a second, before `Ready`."""

    fraction: float


class TokenLogprob(Struct, frozen=True, array_like=True):
    """`logprob` in nats; `top` are alternatives, best first, as (token_id, piece, logprob)."""

    token_id: int
    piece: bytes
    logprob: float | None
    top: list[tuple[int, bytes, float]] = []


class Timings(Struct, frozen=True, kw_only=True):
    """Where a request's time went. The two means are over the passes it took part in, itself included."""

    queue_s: float
    prefill_s: float
    decode_s: float
    sequences_in_batch: float = 1.0
    adapters_in_batch: float = 0.0  # different adapters, the bare base not counted
    drafted_tokens: int = 0  # guessed ahead by prompt lookup...
    accepted_tokens: int = 0  # ...and found to be right


class Finish(Struct, frozen=True, kw_only=True):
    """`reason` is "stop" (end token or stop string) or "length".

    `completion_tokens` counts every token drawn, the end token included, as llama-server does. `end` is that
    token, where logprobs were asked for: no delta lists it.
    """

    reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    timings: Timings
    stop_string: str | None = None
    end: TokenLogprob | None = None


class Delta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one step added to one request. `text` is whole UTF-8, already cut at stop strings.

    `tokens` and `logprobs` come with the text that they became: a token whose text is held back (half a
    character, a beginning stop string) comes later, one that lies wholly in a stop string or ends the
    generation never.
    """

    id: int
    text: str = ""
    tokens: list[int] = []
    logprobs: list[TokenLogprob] | None = None
    prompt: list[TokenLogprob] | None = None  # once, before the first token, if prompt_logprobs was asked
    finish: Finish | None = None


class Step(Struct, frozen=True, tag="step"):
    """All deltas of one engine step, in one message."""

    deltas: list[Delta]


FailedCode = Literal[
    "context_length_exceeded",
    "queue_full",
    "adapter_refused",
    "adapter_unknown",
    "bad_request",
    "engine_error",
]


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """Request `id` (of any kind) failed; `errors.ENGINE_FAILURES` says what the client then sees."""

    id: int
    code: FailedCode
    message: str
    param: str | None = None


class AdapterLoaded(Struct, frozen=True, kw_only=True):
    key: str
    rank: int
    tensors: int
    bytes: int
    load_s: float


class Reply(Struct, frozen=True, kw_only=True, tag="reply"):
    """Answer to a request that wants one value; which field is set follows from the request."""

    id: int
    tokens: list[list[int]] | None = None
    pieces: list[bytes] | None = None
    adapter: AdapterLoaded | None = None
    status: EngineStatus | None = None
    vectors: list[bytes] | None = None  # each (n_embd,) float32, little-endian
    scores: list[float] | None = None
    input_tokens: list[int] | None = None  # of each input or document


class Fatal(Struct, frozen=True, tag="fatal"):
    """The engine cannot start (bad GGUF, no memory); it exits after this."""

    message: str


FromEngine = Ready | LoadProgress | Step | Failed | Reply | Fatal
