"""Requests with a grammar, in a real engine, alone and among others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine_process import Answer, EngineProcess

from llamaleon_server.chat.ask import Form
from llamaleon_server.chat.forms import grammar_of
from llamaleon_server.engine.protocol import Cancel, Sampling

EXACT = {"flash_attention": False, "kv_type": "f32"}
START = "Once upon a time"
PATTERN = "(Tim|Lily) (saw|was) [a-z ]{5,30}\\. The end, and nothing else\\."
GRAMMAR = f"start: /{PATTERN}/"
GREEDY = Sampling(temperature=0.0)


def refusal(answer: Answer) -> tuple[str, str | None]:
    assert answer.failed is not None, answer
    return answer.failed.code, answer.failed.param


def test_the_answer_is_what_the_grammar_says_and_ends_with_it(engine: EngineProcess) -> None:
    for sampling in (GREEDY, *(Sampling(seed=seed) for seed in range(4))):
        answer = engine.generate(START, grammar=GRAMMAR, max_tokens=200, sampling=sampling)
        assert re.fullmatch(PATTERN, answer.text), answer.text
        assert answer.done.reason == "stop"
        assert answer.done.completion_tokens == len(answer.tokens)


def test_what_is_certain_takes_no_pass_of_its_own(engine: EngineProcess) -> None:
    answer = engine.generate(START, grammar='start: /[a-z]/ " and this is all that there is to say."')
    assert answer.text.endswith(" and this is all that there is to say.")
    assert answer.deltas <= 3
    assert answer.done.completion_tokens > 10


def test_logprobs_are_of_the_models_own_distribution(engine: EngineProcess) -> None:
    free = engine.generate(START, max_tokens=1, logprobs=3)
    held = engine.generate(START, max_tokens=1, logprobs=3, grammar='start: "X"')
    assert held.text == "X"
    assert held.logprobs[0].top == free.logprobs[0].top
    assert held.logprobs[0].logprob is not None
    assert held.logprobs[0].logprob < free.logprobs[0].top[-1][2]


def test_logprobs_change_no_text(engine: EngineProcess) -> None:
    """With them every token has a row of logits, without them what is certain has none."""
    for seed in range(3):
        sampling = Sampling(seed=seed, frequency_penalty=0.4)
        plain, scored = (
            engine.generate(START, grammar=GRAMMAR, sampling=sampling, logprobs=logprobs)
            for logprobs in (None, 0)
        )
        assert plain.tokens == scored.tokens
        assert len(scored.logprobs) == len(scored.tokens)


def test_alone_and_among_others_the_same(engine: EngineProcess) -> None:
    """Free streams, other grammars, several seeds, speculation, one adapter and none."""
    grammars = [GRAMMAR, None, 'start: ("yes, " | "no, ")+ "said Tim."', None, GRAMMAR]
    wanted: list[dict[str, Any]] = [
        {"prompt": START + extra, "grammar": grammar, "max_tokens": 60, "sampling": Sampling(seed=seed)}
        for seed in range(2)
        for extra, grammar in zip(("", " there", " Lily", " a", ", one"), grammars, strict=True)
    ]
    alone = [engine.generate(**request, cache_prompt=False).tokens for request in wanted]
    together = engine.wait([engine.start(**request) for request in wanted])
    assert [answer.tokens for answer in together] == alone
    again = engine.wait([engine.start(**request) for request in reversed(wanted)])  # from cached prefixes
    assert [answer.tokens for answer in reversed(again)] == alone


def test_guesses_change_no_text(stories: Path, engine: EngineProcess) -> None:
    """What repeats is guessed ahead, as far as the grammar allows it."""
    refrain = 'start: ("Tim said: " /[a-z]{3,9}/ ". ")+'
    with EngineProcess(stories, threads=1, parallel_sequences=4, speculation=False, **EXACT) as plain:
        for sampling in (GREEDY, Sampling(seed=3, temperature=0.3)):
            one, other = (
                each.generate(START, grammar=refrain, max_tokens=160, sampling=sampling, logprobs=0)
                for each in (engine, plain)
            )
            assert one.tokens == other.tokens
    assert other.done.timings.drafted_tokens == 0


def test_put_back_and_going_on(stories: Path) -> None:
    """Cells run short: requests are put back, computed again, and go on in their grammar where they were."""
    with EngineProcess(
        stories, threads=1, parallel_sequences=6, context_tokens=256, kv_tokens=512, **EXACT
    ) as small:
        grammar = f'start: (/{PATTERN}/ " ")+'
        wanted: list[dict[str, Any]] = [
            {"prompt": f"{START} {n}", "grammar": grammar, "max_tokens": 200, "sampling": Sampling(seed=n)}
            for n in range(6)
        ]
        alone = [small.generate(**request).tokens for request in wanted]
        together = small.wait([small.start(**request) for request in wanted])
        assert [answer.tokens for answer in together] == alone
        for answer in together:
            assert re.match(f"({PATTERN} )", answer.text)


def test_max_tokens_cuts(engine: EngineProcess) -> None:
    answer = engine.generate(START, grammar='start: "Tim and Lily went to the park."', max_tokens=4)
    assert (answer.done.reason, answer.done.completion_tokens) == ("length", 4)
    assert "Tim and Lily went to the park.".startswith(answer.text)


def test_a_last_token_at_the_limit_still_completes(engine: EngineProcess) -> None:
    whole = engine.generate(START, grammar='start: "Tim and Lily"')
    exact = engine.generate(START, grammar='start: "Tim and Lily"', max_tokens=whole.done.completion_tokens)
    assert (exact.text, exact.done.reason) == ("Tim and Lily", "stop")


def test_stop_strings_still_stop(engine: EngineProcess) -> None:
    answer = engine.generate(START, grammar='start: "one two three"', stop=("two",))
    assert (answer.text, answer.done.reason, answer.done.stop_string) == ("one ", "stop", "two")


def test_ignore_eos_does_not_outlive_the_grammar(engine: EngineProcess) -> None:
    answer = engine.generate(START, grammar='start: "yes" | "no"', ignore_eos=True, max_tokens=50)
    assert answer.text in ("yes", "no")
    assert answer.done.reason == "stop"


def test_a_bad_grammar_is_refused_by_name_and_others_go_on(engine: EngineProcess) -> None:
    free = engine.start(START, max_tokens=40)
    bad = [engine.start(START, grammar=text) for text in ("start: (", "start: start", "{}", "start: <none>")]
    for answer in engine.wait(bad):
        assert refusal(answer) == ("bad_request", "grammar")
    assert engine.wait([free])[0].done.completion_tokens == 40


def test_a_dead_end_ends_one_request(engine: EngineProcess) -> None:
    letter = engine.generate(START, grammar='start: "x"').tokens[0]
    free = engine.start(START, max_tokens=40)
    stuck = engine.start(
        START, grammar='start: /[a-f]{3}/ "x"', sampling=Sampling(logit_bias={letter: float("-inf")})
    )
    answer = engine.wait([stuck])[0]
    assert refusal(answer) == ("bad_request", "grammar")
    assert answer.failed is not None
    assert "logit_bias" in answer.failed.message
    assert engine.wait([free])[0].done.completion_tokens == 40


def test_a_request_cancelled_while_its_grammar_compiles_never_runs(engine: EngineProcess) -> None:
    rules = "\n".join(f'r{n}: "{n}" r{n + 1}' for n in range(2500))
    number = engine.start(START, grammar=f'start: r0\n{rules}\nr2500: "end"')
    engine.send(Cancel(number))
    assert engine.generate(START, max_tokens=5).done.completion_tokens == 5
    assert engine.answers[number] == Answer()
    assert engine.status.running == 0


# ---------------------------------------------------------------- schemas

NAMES = st.text("abcdefgé_ ", min_size=1, max_size=6)
LEAVES = st.one_of(
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 8)),
    st.just({"type": "string", "pattern": "^[a-c]{1,3}$"}),
    st.just({"type": "string", "format": "date"}),
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-50, 50),
        st.integers(0, 90),
    ),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": "así"}, {"type": ["boolean", "null"]}]),
    st.builds(lambda values: {"enum": values}, st.lists(NAMES | st.integers(0, 9), min_size=1, max_size=3)),
)


def _object(properties: dict[str, Any], required: int) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties)[:required],
        "additionalProperties": False,
    }


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(_object, st.dictionaries(NAMES, inner, max_size=3), st.integers(0, 3)),
        st.builds(
            lambda item, least, more: {
                "type": "array",
                "items": item,
                "minItems": least,
                "maxItems": least + more,
            },
            inner,
            st.integers(0, 2),
            st.integers(0, 2),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.builds(_object, st.dictionaries(NAMES, SCHEMAS, min_size=1, max_size=3), st.integers(0, 3)), SCHEMAS
)
def test_answers_fulfil_their_schema(
    nano: EngineProcess, schema: dict[str, Any], shared: dict[str, Any]
) -> None:
    schema["$defs"] = {"shared": shared}
    schema["properties"]["again"] = {"$ref": "#/$defs/shared"}
    schema["required"].append("again")
    grammar = grammar_of(Form(kind="json_schema", value=schema))
    numbers = [
        nano.start("Write JSON:", grammar=grammar, sampling=sampling, max_tokens=600)
        for sampling in (GREEDY, Sampling(seed=1), Sampling(seed=2, temperature=1.5, frequency_penalty=1.0))
    ]
    for answer in nano.wait(numbers):
        assert answer.done.reason == "stop", answer
        jsonschema_rs.validate(schema, json.loads(answer.text))


def test_any_object_is_an_object(nano: EngineProcess) -> None:
    grammar = grammar_of(Form(kind="json_object"))
    answers = nano.wait(
        [nano.start("JSON:", grammar=grammar, sampling=Sampling(seed=n), max_tokens=300) for n in range(8)]
    )
    whole = [json.loads(answer.text) for answer in answers if answer.done.reason == "stop"]
    assert whole
    assert all(isinstance(value, dict) for value in whole)
    assert all(answer.text.startswith("{") for answer in answers)
