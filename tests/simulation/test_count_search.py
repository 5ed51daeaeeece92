"""CountSearch: finds the least number that is enough, in few attempts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from headrace.simulation.count_search import CountSearch


@dataclass(frozen=True)
class Answer:
    meets: bool


@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 100))
def test_the_least_number_is_found(need: int, low: int, high: int) -> None:
    high = max(low, high)
    tried: list[int] = []

    def attempt(count: int) -> Answer:
        tried.append(count)
        return Answer(count >= need)

    found = CountSearch(attempt).least(low, high)
    assert found == (max(low, need) if need <= high else None)
    assert len(tried) == len(set(tried)) <= 2 * math.log2(high) + 3
    assert all(low <= count <= high for count in tried)


def test_nothing_is_tried_twice() -> None:
    search = CountSearch(lambda count: Answer(count >= 5))
    assert search.least(1, 64) == 5
    trials = dict(search.trials)
    assert search.least(1, 64) == 5
    assert search.trials == trials
    assert search.check(5, 1, 64) == []
    assert set(search.trials) == {*trials, 6}


def test_what_contradicts_the_order_is_told() -> None:
    odd = CountSearch(lambda count: Answer(count in (4, 5, 7, 8)))
    assert odd.least(1, 8) == 4
    assert odd.check(5, 1, 8) == ["5 meet the targets and 6 do not"]
    bound = CountSearch(lambda count: Answer(count >= 2))
    assert bound.least(3, 8) == 3
    assert bound.check(3, 3, 8) == ["2 meet the targets, fewer than the bound of 3"]
    assert CountSearch(lambda count: Answer(True)).check(1, 1, 1) == []
