"""Output lengths: against counting by hand, cut-off answers, classes, bounds, and damaged data."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.request import Request
from headrace.nouns.sequence import FinishReason, Sequence
from headrace.scheduling.output_lengths import ENOUGH, LengthTable, OutputLengths
from tests.scheduling.mock_executor import make_request

EOS = frozenset([0])
MIDDLES = [(2 * i + 1) / 40 for i in range(20)]


def request(
    max_tokens: int = 1000, tenant: str = "t", category: str = "", eos: frozenset[int] = EOS
) -> Request:
    return replace(make_request("r", [1, 2], max_tokens, tenant=tenant, eos=eos), category=category)


def ended(
    length: int, reason: FinishReason = FinishReason.STOP, of: Request | None = None
) -> Sequence:
    seq = Sequence.of(of or request(), 0)
    seq.tokens.extend([5] * length)
    seq.finish_reason = reason
    return seq


def taught(*lengths: int, **options: str) -> OutputLengths:
    known = OutputLengths()
    for length in lengths:
        known.observe(ended(length, of=request(**options)))  # type: ignore[arg-type]
    return known


def counted(lengths: list[int], produced: int, u: float) -> int | None:
    """The u-quantile of those longer than ``produced``, by counting."""
    longer = sorted(length for length in lengths if length > produced)
    for length in longer:
        if Fraction(sum(other <= length for other in longer), len(longer)) > Fraction(u):
            return length
    return None


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    produced=st.integers(0, 29),
    u=st.integers(0, 10_000),
)
def test_conditional_quantiles_are_those_of_the_lengths_that_are_longer(
    lengths: list[int], produced: int, u: int
) -> None:
    share = (u + 0.5) / 10_001  # never where a count of at most 60 makes a step
    table = LengthTable(lengths)
    if max(lengths) > produced:
        assert table.draws(produced, [share]) == [counted(lengths, produced, share)]
        assert table.beyond(produced) == sum(length > produced for length in lengths)


@given(
    seen=st.lists(st.integers(-25, 25).filter(bool), min_size=1, max_size=40),
    produced=st.integers(0, 24),
)
def test_the_share_beyond_a_length_is_the_product_of_the_shares_that_passed_each(
    seen: list[int], produced: int
) -> None:
    left = Fraction(1)
    for length in range(1, produced + 1):
        at_risk = sum(abs(other) >= length for other in seen)
        if at_risk:
            left *= 1 - Fraction(seen.count(length), at_risk)
    assert LengthTable(seen).ended_by(produced) == pytest.approx(float(1 - left), abs=1e-12)


def test_answers_cut_off_do_not_count_as_short_ones() -> None:
    """Half of the clients allow 10 tokens only; of the others half end at 100, half at 200."""
    known = OutputLengths()
    for i in range(400):
        if i % 2:
            known.observe(ended(10, FinishReason.LENGTH, request(max_tokens=10)))
        else:
            known.observe(ended(100 if i % 4 else 200))
    draws = known.draws(request(), 0, MIDDLES)
    assert set(draws) == {100, 200}
    assert draws.count(100) == 10
    assert known.draws(request(max_tokens=50), 0, [0.2, 0.9]) == [50, 50]


def test_aborts_and_errors_cut_off_and_what_produced_nothing_teaches_nothing() -> None:
    known = OutputLengths()
    for _ in range(20):
        known.observe(ended(3, FinishReason.ABORT))
        known.observe(ended(3, FinishReason.ERROR))
        known.observe(ended(40))
    known.observe(ended(0, FinishReason.ABORT))
    assert known.observed == 60
    assert known.draws(request(), 0, MIDDLES) == [40] * 20


def test_those_that_cannot_end_early_are_known_and_teach_nothing() -> None:
    known = taught(*[10] * 20)
    endless = request(max_tokens=700, eos=frozenset())
    assert known.draws(endless, 0, [0.0, 0.5, 0.99]) == [700] * 3
    known.observe(ended(700, FinishReason.LENGTH, endless))
    assert known.observed == 20
    stopping = replace(endless, params=replace(endless.params, stop=("x",)))
    assert known.draws(stopping, 0, [0.5]) == [10]


def test_without_history_any_length_up_to_the_bound_is_equally_likely() -> None:
    known = OutputLengths()
    shares = [(i + 0.5) / 100 for i in range(100)]
    assert known.draws(request(max_tokens=100), 0, shares) == list(range(1, 101))
    assert known.draws(request(max_tokens=100), 50, [0.0, 0.5, 0.999]) == [51, 76, 100]
    assert known.draws(request(max_tokens=100), 100, [0.3]) == [100]


def test_longer_than_all_seen_is_anything_up_to_the_bound() -> None:
    known = taught(*range(1, 101))
    assert known.draws(request(max_tokens=1000), 100, [0.0, 0.5]) == [101, 551]
    for _ in range(100):
        known.observe(ended(100, FinishReason.LENGTH, request(max_tokens=100)))
    half = known.draws(request(max_tokens=1000), 0, MIDDLES)
    assert sum(length > 100 for length in half) == 10
    assert max(half) > 900


def test_the_finest_class_that_knows_enough_is_asked() -> None:
    known = OutputLengths()
    for _ in range(ENOUGH):
        known.observe(ended(10, of=request(category="chat")))
        known.observe(ended(100, of=request(category="code")))
        known.observe(ended(500, of=request(tenant="other", category="chat")))
    assert known.draws(request(category="chat"), 0, [0.5]) == [10]
    assert known.draws(request(category="code"), 0, [0.5]) == [100]
    assert known.draws(request(category="new"), 0, [0.25, 0.75]) == [10, 100]
    assert known.draws(request(tenant="stranger"), 0, [0.9]) == [500]
    assert known.draws(request(category="chat"), 10, [0.5]) == [100], "its tenant's have gone on"
    assert known.draws(request(category="code"), 100, [0.5]) == [500], "others' have gone on"


def test_a_few_are_better_than_none() -> None:
    assert taught(30).draws(request(), 0, [0.1, 0.9]) == [30, 30]


def test_memory_is_bounded_and_the_class_not_used_for_longest_goes_first() -> None:
    known = OutputLengths(window=5, classes=3)
    for i in range(9):
        known.observe(ended(i + 1, of=request(tenant="steady")))
        known.observe(ended(i + 1, of=request(tenant=f"once {i}")))
    assert len(known) == 3
    kept = {entry["tenant"]: entry["lengths"] for entry in known.to_json()["classes"]}
    assert kept.keys() == {None, "steady", "once 8", "once 7"}
    assert kept["steady"] == [5, 6, 7, 8, 9]
    assert len(kept[None]) == 5


def test_old_lengths_are_forgotten() -> None:
    known = OutputLengths(window=32)
    for length in [*[10] * 100, *[90] * 32]:
        known.observe(ended(length))
    assert known.draws(request(), 0, MIDDLES) == [90] * 20


@given(
    jobs=st.lists(
        st.tuples(
            st.integers(1, 50),
            st.sampled_from(list(FinishReason)),
            st.sampled_from(["a", "b", "\ud800", "c/d"]),
            st.sampled_from(["", "chat", "code"]),
        ),
        max_size=60,
    )
)
def test_what_is_kept_as_json_predicts_the_same(
    jobs: list[tuple[int, FinishReason, str, str]],
) -> None:
    known = OutputLengths(window=20, classes=4)
    for length, reason, tenant, category in jobs:
        known.observe(ended(length, reason, request(tenant=tenant, category=category)))
    text = json.dumps(known.to_json())
    again, once_more = OutputLengths(20, 4), OutputLengths(20, 4)
    again.restore(json.loads(text))
    once_more.restore(json.loads(json.dumps(again.to_json())))
    assert json.dumps(again.to_json()) == text
    for tenant in ("a", "b", "\ud800", "c/d", "x"):
        for category in ("", "chat", "code"):
            for produced in (0, 7, 30):
                asked = request(60, tenant, category)
                expected = again.draws(asked, produced, MIDDLES)
                assert once_more.draws(asked, produced, MIDDLES) == expected
                assert all(produced < length <= 60 for length in expected)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (None, "no list of classes"),
        ([], "no list of classes"),
        ({"classes": 3}, "no list of classes"),
        ({"classes": [3]}, "no object"),
        ({"classes": [{"tenant": 3, "category": None, "lengths": []}]}, "no string"),
        ({"classes": [{"tenant": None, "category": "x", "lengths": []}]}, "has no tenant"),
        ({"classes": [{"tenant": "a", "category": None}]}, "not whole numbers"),
        ({"classes": [{"tenant": "a", "category": None, "lengths": [0]}]}, "not whole numbers"),
        ({"classes": [{"tenant": "a", "category": None, "lengths": [1.5]}]}, "not whole numbers"),
        ({"classes": [{"tenant": "a", "category": None, "lengths": [True]}]}, "not whole numbers"),
        ({"classes": [{"tenant": "a", "category": None, "lengths": [1 << 40]}]}, "1073741824"),
    ],
)
def test_damaged_data_is_refused_and_changes_nothing(data: object, fault: str) -> None:
    known = taught(*[10] * 20)
    with pytest.raises(ValueError, match=fault):
        known.restore(data)
    assert known.draws(request(), 0, [0.5]) == [10]


def test_restored_data_stays_within_the_bounds() -> None:
    classes = [
        {"tenant": f"t{i}", "category": None, "lengths": list(range(1, 101))} for i in range(50)
    ]
    known = OutputLengths(window=10, classes=4)
    known.restore({"classes": classes})
    kept = known.to_json()["classes"]
    assert [entry["tenant"] for entry in kept] == ["t46", "t47", "t48", "t49"]
    assert kept[0]["lengths"] == list(range(91, 101))
