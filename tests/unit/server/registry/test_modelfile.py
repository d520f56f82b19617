"""Modelfiles: read as Ollama reads them, mistakes named by line, printed so that they read back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.modelfile import (
    ROLES,
    AdapterLine,
    Modelfile,
    ModelfileError,
    parse,
    printed,
)
from llamaleon_server.registry.parameters import IGNORED, Meaning, meaning_of

EVERYTHING = '''\
# A comment
FROM llama3.2:1b

  adapter ./a.gguf
ADAPTER sql@2*0.5
PARAMETER temperature 0.7
parameter num_ctx 4096
PARAMETER stop "<|im_end|>"
PARAMETER stop  AI assistant:
PARAMETER seed 9223372036854775807
PARAMETER use_mmap false
PARAMETER kv_type q8_0
SYSTEM """You are "Mario".
# this is text

Be brief."""
TEMPLATE "{{ .Prompt }}
"
MESSAGE user Is Toronto in Canada?
MESSAGE assistant "yes, it is "
LICENSE """
MIT
"""
'''


def test_everything_a_modelfile_may_say() -> None:
    assert parse(EVERYTHING) == Modelfile(
        from_="llama3.2:1b",
        adapters=(AdapterLine(source="./a.gguf"), AdapterLine(source="sql@2", weight=0.5)),
        parameters=(
            ("temperature", 0.7),
            ("num_ctx", 4096),
            ("stop", "<|im_end|>"),
            ("stop", "AI assistant:"),
            ("seed", 9223372036854775807),
            ("use_mmap", False),
            ("kv_type", "q8_0"),
        ),
        system='You are "Mario".\n# this is text\n\nBe brief.',
        template="{{ .Prompt }}\n",
        messages=(("user", "Is Toronto in Canada?"), ("assistant", "yes, it is ")),
        licenses=("\nMIT\n",),
    )
    assert parse(EVERYTHING.replace("\n", "\r\n")) == parse(EVERYTHING)
    assert parse("\ufeff" + EVERYTHING) == parse(EVERYTHING)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "no FROM"),
        ("# only\n\n", 1, "no FROM"),
        ("FROM", 1, "FROM needs a model's name"),
        ("FROM a\nFROM b", 2, "a second FROM"),
        ("FROM a\n\nFOO bar", 3, "FOO is no instruction"),
        ("FROM a\nADAPTER", 2, "ADAPTER needs"),
        ("FROM a\nPARAMETER tempreature 1", 2, "Did you mean temperature?"),
        ("FROM a\nPARAMETER temperature hot", 2, "temperature needs a number, not 'hot'"),
        ("FROM a\nPARAMETER temperature nan", 2, "needs a number"),
        ("FROM a\nPARAMETER top_p 1.5", 2, "top_p must be between 0 and 1"),
        ("FROM a\nPARAMETER num_ctx 1.5", 2, "num_ctx"),
        ("FROM a\nPARAMETER num_ctx 0", 2, "num_ctx must be at least 1, not 0"),
        ("FROM a\nPARAMETER num_ctx 99999999999", 2, "num_ctx: 99999999999 is too large"),
        ("FROM a\nPARAMETER seed 9223372036854775808", 2, "seed must be between"),
        ("FROM a\nPARAMETER kv_type q9", 2, "kv_type must be one of f32"),
        ("FROM a\nPARAMETER mirostat 2", 2, "mirostat is not supported"),
        ("FROM a\nPARAMETER stop", 2, "stop needs a text"),
        ("FROM a\nPARAMETER", 2, "'' is no parameter"),
        ("FROM a\nMESSAGE robot hi", 2, "'robot' is no role"),
        ('FROM a\nSYSTEM """\nx\n', 2, 'the text that """ opens is never closed'),
        ('FROM a\nSYSTEM "x', 2, 'the text that " opens is never closed'),
    ],
)
def test_a_mistake_is_named_by_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(ModelfileError) as caught:
        parse(text)
    assert caught.value.line == line
    assert caught.value.message.startswith(f"Modelfile, line {line}: ")
    assert problem in caught.value.message
    assert caught.value.param == "modelfile"


TEXT = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]))
WEIRD = st.text(st.sampled_from('" \t\n#a"*'), max_size=12)
NAME = st.from_regex(r"[a-z][a-z0-9./:-]{0,12}", fullmatch=True)
PARAMETER = st.one_of(
    st.tuples(st.just("temperature"), st.floats(0, 100)),
    st.tuples(st.just("seed"), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("num_predict"), st.integers(-2, 10**6)),
    st.tuples(st.just("stop"), st.one_of(TEXT, WEIRD).filter(bool)),
    st.tuples(st.just("use_mmap"), st.booleans()),
    st.tuples(st.just("num_ctx"), st.integers(1, 2**31 - 1)),
)
MODELFILE = st.builds(
    Modelfile,
    from_=NAME,
    adapters=st.lists(st.builds(AdapterLine, source=NAME, weight=st.floats(-10, 10)), max_size=3).map(tuple),
    parameters=st.lists(PARAMETER, max_size=4).map(tuple),
    system=st.none() | TEXT | WEIRD,
    template=st.none() | TEXT | WEIRD,
    messages=st.lists(st.tuples(st.sampled_from(ROLES), TEXT | WEIRD), max_size=2).map(tuple),
    licenses=st.lists(TEXT | WEIRD, max_size=2).map(tuple),
)


@given(MODELFILE)
def test_what_is_printed_reads_back(modelfile: Modelfile) -> None:
    text = printed(modelfile)
    assert parse(text) == modelfile
    assert printed(parse(text)) == text


@given(st.text(st.sampled_from('FROMSYTE PA\n"#{}.*a1\t\r')) | st.text())
def test_any_text_is_read_or_refused_by_line(text: str) -> None:
    try:
        modelfile = parse(text)
    except ModelfileError as error:
        assert 1 <= error.line <= text.count("\n") + 1
    else:
        assert parse(printed(modelfile)) == modelfile


def test_many_open_fences_are_read_at_once() -> None:
    """Each of them sought its end in all that follows: of this text for minutes, and everybody waited."""
    began = time.monotonic()
    assert len(parse("FROM a\n" + 'LICENSE """"\n' * 100_000).licenses) == 50_000
    assert time.monotonic() - began < 30


def test_what_parameters_mean() -> None:
    meaning = meaning_of(
        [
            ("temperature", 1),
            ("temperature", 0.5),
            ("stop", ["A", "B"]),
            ("stop", "A"),
            ("seed", None),
            ("num_predict", -2),
            ("num_ctx", 99),
            ("num_gpu", -1),
            ("num_thread", 0),
            ("rope_frequency_base", 5e5),
            ("split_mode", "row"),
            ("mirostat", 0),
            ("numa", True),
        ]
    )
    assert (meaning.wanted.temperature, meaning.wanted.seed, meaning.max_tokens) == (0.5, None, None)
    assert meaning.stop == ("A", "B")
    assert meaning.engine == {"context_tokens": 99, "rope_freq_base": 5e5, "split_mode": "row"}
    assert meaning.notes == ("PARAMETER numa has no effect here.",)
    assert meaning_of([("num_predict", 7)]).max_tokens == 7
    assert meaning_of([(name, 1) for name in IGNORED]).engine == Meaning().engine


@pytest.mark.parametrize("value", [True, [], {}, "x", float("inf"), 10**400])
def test_values_of_json_that_cannot_be(value: object) -> None:
    with pytest.raises(BadRequest) as caught:
        meaning_of([("temperature", value)], "options")
    assert caught.value.param == "options.temperature"
