"""The text cutter alone: what comes out does not depend on where token borders fall."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamaleon_server.engine.sampling.text import TextCutter

ALPHABET = "ab¿ñ€😀 <"
texts = st.text(alphabet=ALPHABET, max_size=24)
stops = st.lists(st.text(alphabet=ALPHABET, min_size=1, max_size=4), max_size=3)


def pieces_of(data: st.DataObject, raw: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    return [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def run(pieces: list[bytes], stop: list[str]) -> tuple[str, str | None, list[str]]:
    cutter, given_back = TextCutter(stop), []
    for piece in pieces:
        given_back.append(cutter.push(piece))
        if cutter.stop_string is not None:
            return "".join(given_back), cutter.stop_string, given_back
    given_back.append(cutter.finish())
    return "".join(given_back), None, given_back


def expected(text: str, stop: list[str]) -> tuple[str, str | None]:
    """The stop string complete first wins, the longest of those that end together."""
    for end in range(len(text) + 1):
        matching = [s for s in stop if text[:end].endswith(s)]
        if matching:
            longest = max(matching, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(texts, stops, st.data())
def test_any_split_gives_the_same_cut(text: str, stop: list[str], data: st.DataObject) -> None:
    got, stopped, _ = run(pieces_of(data, text.encode()), stop)
    assert (got, stopped) == expected(text, stop)


@given(texts, stops, st.data())
def test_nothing_given_back_is_ever_taken_back(text: str, stop: list[str], data: st.DataObject) -> None:
    """What was shown at any time is the beginning of the final text: no half character, no half stop."""
    final, _ = expected(text, stop)
    _, _, given_back = run(pieces_of(data, text.encode()), stop)
    shown = ""
    for part in given_back:
        shown += part
        assert final.startswith(shown)


@given(st.binary(max_size=24), st.data())
def test_invalid_bytes_become_replacement_characters(raw: bytes, data: st.DataObject) -> None:
    got, _, _ = run(pieces_of(data, raw), [])
    assert got == raw.decode(errors="replace")


def test_a_character_is_held_until_it_is_whole() -> None:
    cutter = TextCutter()
    parts = [cutter.push(bytes([byte])) for byte in "ñ€".encode()]
    assert parts == ["", "ñ", "", "", "€"]


def test_text_is_held_only_while_it_may_become_a_stop_string() -> None:
    cutter = TextCutter(["\n\nUser:"])
    assert cutter.push(b"Yes.\n") == "Yes."
    assert cutter.push(b"No.") == "\nNo."
    assert cutter.push(b"\n\nUser") == ""
    assert cutter.push(b"s are") == "\n\nUsers are"


def test_certain_bytes_counts_what_is_in_the_text() -> None:
    cutter = TextCutter(["stop"])
    cutter.push(b"a st")
    assert cutter.certain_bytes == 2
    cutter.push(b"op")
    assert (cutter.stop_string, cutter.certain_bytes) == ("stop", 2)
