from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from headrace.sampling.detokenizer import Detokenizer

SPECIAL = 10_000


def detokenizer(pieces: list[bytes]) -> Detokenizer:
    return Detokenizer(lambda i: pieces[i], lambda i: i == SPECIAL)


TEXT = st.text(st.characters(codec="utf-8"), max_size=30).map(lambda s: s.encode())
PIECES = st.lists(st.one_of(st.binary(max_size=5), TEXT), max_size=20)


@given(PIECES, st.data())
@example([b"\xf0\x9f", b"\x98", b"\x80 \xe2\x82", b"x"], None)
@example([b"\xed\xa0", b"\x80\xf4\x90\x80\x80\xc0\xaf"], None)
def test_any_bytes_in_any_split_are_the_whole_decoded(
    pieces: list[bytes], data: st.DataObject | None
) -> None:
    made = detokenizer(pieces)
    text, place = "", 0
    while place < len(pieces):
        count = 1 if data is None else data.draw(st.integers(0, 4))
        if count == 1:
            text += made.push_one(place)
        else:
            text += made.push(range(place, min(place + count, len(pieces))))
        place += count
    assert text + made.flush() == b"".join(pieces).decode("utf-8", "replace")


@given(TEXT)
def test_valid_text_byte_by_byte_never_shows_a_broken_character(whole: bytes) -> None:
    pieces = [whole[i : i + 1] for i in range(len(whole))]
    made = detokenizer(pieces)
    text = ""
    for i in range(len(pieces)):
        text += made.push_one(i)
        assert text == whole[: i + 1].decode("utf-8", "ignore")
    assert made.flush() == ""


def test_special_tokens_have_no_text_and_break_no_character() -> None:
    made = detokenizer([b"\xe2\x82", b"\xac!"])
    assert made.push([0]) == ""
    assert made.push([SPECIAL]) == ""
    assert made.push_one(SPECIAL) == ""
    assert made.push([1, SPECIAL]) == "€!"
    assert made.flush() == ""


def test_an_incomplete_end_is_one_replacement_character() -> None:
    made = detokenizer([b"ab\xf0\x9f\x98"])
    assert made.push([0]) == "ab"
    assert made.flush() == "\ufffd"
    assert made.flush() == ""
    assert made.push([0]) == "ab"
