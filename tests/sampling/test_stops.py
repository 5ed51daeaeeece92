from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.sampling.stops import StopStrings

# Two letters and a rare third: overlaps, self-overlaps and near misses everywhere.
LETTERS = "aabbc"
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=4)
TEXT = st.text(LETTERS, max_size=40)


def naive(stops: list[str], text: str) -> tuple[str, str | None]:
    """The first end of any stop; of those that end there, the longest."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def held_back(stops: list[str], text: str) -> int:
    """Length of the longest end of ``text`` that is the start of a stop."""
    starts = {stop[:n] for stop in stops for n in range(len(stop))}
    return max(n for n in range(len(text) + 1) if text[len(text) - n :] in starts | {""})


@given(STOPS, TEXT, st.data())
@example(["ab", "b"], "aab", None)
@example(["abcd", "bc"], "abcd", None)
@example(["aab"], "aaaaab", None)
def test_any_pieces_give_what_the_whole_gives(
    stops: list[str], text: str, data: st.DataObject | None
) -> None:
    stop_strings = StopStrings(stops)
    expected, matched = naive(stops, text)
    out, place = "", 0
    while place < len(text):
        size = 1 if data is None else data.draw(st.integers(0, 8))
        piece, got = stop_strings.push(text[place : place + size])
        out += piece
        place += size
        if got is not None:
            assert (out, got) == (expected, matched)
            assert stop_strings.push("more") == ("", got)
            assert stop_strings.flush() == ""
            return
        seen = text[:place]
        assert out == seen[: len(seen) - held_back(stops, seen)]
    assert matched is None
    assert out + stop_strings.flush() == text


@given(st.lists(st.text(min_size=1, max_size=5), max_size=3), st.text(max_size=30))
def test_any_characters(stops: list[str], text: str) -> None:
    text = text + "".join(stops[:1]) + text
    stop_strings = StopStrings(stops)
    out, matched = stop_strings.push(text)
    assert (out + stop_strings.flush(), matched) == naive(stops, text)


def test_text_after_an_ended_text_starts_afresh() -> None:
    stop_strings = StopStrings(["ab"])
    assert stop_strings.push("xa") == ("x", None)
    assert stop_strings.flush() == "a"
    assert stop_strings.push("b") == ("b", None)


@pytest.mark.parametrize("pieces", [1, 7])
def test_work_is_linear_in_the_text(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The worst case for searching again: a stop that almost matches all the time.
    stop_strings = StopStrings(["a" * 500 + "b", "a" * 300 + "c"])
    steps = 0
    original = StopStrings._step

    def counted(self: StopStrings, state: int, character: str) -> int:
        nonlocal steps
        steps += 1
        return original(self, state, character)

    monkeypatch.setattr(StopStrings, "_step", counted)
    text = "a" * 5000
    for start in range(0, len(text), pieces):
        stop_strings.push(text[start : start + pieces])
    assert steps == len(text)
    assert len(stop_strings.flush()) == 500
