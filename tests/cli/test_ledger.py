"""Ledger against a dictionary, and what it costs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.cli.ledger import Claim, Ledger, digest

IDS = st.text(max_size=3)
LINES = st.binary(max_size=1).map(digest)


@given(st.lists(st.tuples(IDS, LINES)), st.lists(st.tuples(IDS, LINES)))
def test_it_is_a_dictionary(found: list[tuple[str, int]], claims: list[tuple[str, int]]) -> None:
    ledger, answered, taken = Ledger(), dict[str, int](), set[str]()
    for custom_id, line in found:
        assert ledger.answered(custom_id, line) == (custom_id not in answered)
        answered.setdefault(custom_id, line)
    for custom_id, line in claims:
        if custom_id in taken:
            expected = Claim.DUPLICATE
        elif custom_id not in answered:
            expected = Claim.NEW
        else:
            expected = Claim.ANSWERED if answered[custom_id] == line else Claim.CHANGED
        assert ledger.claim(custom_id, line) is expected
        if expected is not Claim.CHANGED:
            taken.add(custom_id)
    assert len(ledger) == len(answered.keys() | taken)


def test_it_grows_and_forgets_nothing() -> None:
    ledger, line = Ledger(), digest(b"x")
    for number in range(0, 20_000, 2):
        assert ledger.answered(f"row-{number}", line)
    claims = [ledger.claim(f"row-{number}", line) for number in range(20_000)]
    assert claims == [Claim.ANSWERED, Claim.NEW] * 10_000
    assert ledger.claim("row-7", line) is Claim.DUPLICATE


@given(st.binary())
def test_a_digest_leaves_room_for_the_mark(data: bytes) -> None:
    assert 0 < digest(data) < 2**64
    assert digest(data) % 2 == 0
