"""From a request's sampling fields to a sampler, and their checks."""

from __future__ import annotations

import math
import os

from llamaleon_server.binding.vocabulary import Vocabulary
from llamaleon_server.engine.protocol import Generate, Sampling
from llamaleon_server.engine.sampling.sampler import SamplerSettings

MAX_ALTERNATIVES = 20
MAX_WEIGHT = 100  # of an adapter: what is trained is used at about 1
# field -> (least, most) allowed
RANGES = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "top_k": (-1, 2**31 - 1),
    "frequency_penalty": (-100.0, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "repeat_penalty": (1e-3, 100.0),
}


def problem_of(request: Generate, vocabulary: Vocabulary) -> tuple[str, str] | None:
    """(message, field) of the first thing wrong with a request, or None."""
    for name, (least, most) in RANGES.items():
        value = getattr(request.sampling, name)
        if not least <= value <= most:  # also catches NaN
            return f"{name} is {value}; it must lie between {least} and {most}.", name
    for token, bias in request.sampling.logit_bias.items():
        if not 0 <= token < vocabulary.size or math.isnan(bias) or bias == math.inf:
            return (
                f"logit_bias: {token} is no token id of this model, or its bias {bias} no number.",
                "logit_bias",
            )
    for name in ("logprobs", "prompt_logprobs"):
        wanted = getattr(request, name)
        if wanted is not None and not 0 <= wanted <= MAX_ALTERNATIVES:
            return f"{name} is {wanted}; it must lie between 0 and {MAX_ALTERNATIVES}.", name
    if request.max_tokens is not None and request.max_tokens < 0:
        return f"max_tokens is {request.max_tokens}; it must not be negative.", "max_tokens"
    if isinstance(request.prompt, list):
        wrong = next((token for token in request.prompt if not 0 <= token < vocabulary.size), None)
        if wrong is not None:
            return (
                f"The prompt's token id {wrong} is not in the vocabulary (0 to {vocabulary.size - 1}).",
                "prompt",
            )
    for use in request.adapters:
        if not abs(use.weight) <= MAX_WEIGHT:  # also catches NaN
            return (
                f"An adapter's weight is {use.weight}; it must lie between -{MAX_WEIGHT} and {MAX_WEIGHT}.",
                "model",
            )
    return None


def settings_of(request: Generate, vocabulary: Vocabulary) -> SamplerSettings:
    """What a request asks for. Without a seed every request draws one of its own."""
    asked: Sampling = request.sampling
    bias = dict(asked.logit_bias)
    if request.ignore_eos:
        bias |= dict.fromkeys(vocabulary.end_tokens, -math.inf)
    return SamplerSettings(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=max(asked.top_p, 1e-6),  # 0 means the best token, as everywhere else
        min_p=asked.min_p,
        seed=int.from_bytes(os.urandom(4), "little") if asked.seed is None else asked.seed,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
        repeat_penalty=asked.repeat_penalty,
        bias=bias,
    )
