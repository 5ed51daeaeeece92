"""Arrival processes: their statistics, their seeds, rates as text."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.nouns.errors import ConfigError
from headrace.workloads.arrivals import AllAtOnce, Poisson, Rate, Replayed, parse_rates

COUNT = 20_000


def gaps(rate: float, seed: int) -> np.ndarray:
    offsets = list(islice(Poisson(rate, seed).offsets(), COUNT + 1))
    return np.array([b - a for a, b in pairwise(offsets)])


@pytest.mark.parametrize(("rate", "seed"), [(0.5, 0), (3.0, 1), (250.0, 2)])
def test_poisson_gaps_are_exponential(rate: float, seed: int) -> None:
    found = gaps(rate, seed) * rate
    # Mean 1 and deviation 1; the mean of n gaps deviates by 1/sqrt(n), allow four times that.
    assert abs(found.mean() - 1) < 4 / COUNT**0.5
    assert abs(found.std() - 1) < 0.05
    for quantile in (0.1, 0.5, 0.9, 0.99):
        below = (found < -np.log(1 - quantile)).mean()
        assert abs(below - quantile) < 4 * (quantile * (1 - quantile) / COUNT) ** 0.5


def test_poisson_counts_have_the_variance_of_their_mean() -> None:
    offsets = np.array(list(islice(Poisson(8.0, 3).offsets(), COUNT)))
    counts = np.bincount(offsets.astype(int))[:-1]
    assert counts.mean() == pytest.approx(8.0, rel=0.05)
    assert counts.var() == pytest.approx(8.0, rel=0.15)


def test_gaps_are_independent() -> None:
    found = gaps(1.0, 4)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 4 / COUNT**0.5


def test_a_seed_repeats_and_another_does_not() -> None:
    first = list(islice(Poisson(2.0, 7).offsets(), 2000))
    assert first == list(islice(Poisson(2.0, 7).offsets(), 2000))
    assert first != list(islice(Poisson(2.0, 8).offsets(), 2000))
    assert first == sorted(first)


def test_twice_the_rate_is_the_same_process_in_half_the_time() -> None:
    slow = list(islice(Poisson(2.0, 7).offsets(), 50))
    fast = list(islice(Poisson(4.0, 7).offsets(), 50))
    assert fast == pytest.approx([at / 2 for at in slow])


def test_all_at_once_and_replayed() -> None:
    assert list(islice(AllAtOnce().offsets(), 3)) == [0.0, 0.0, 0.0]
    assert AllAtOnce(5).limit == 5
    replayed = Replayed(lambda: [0.0, 1.0, 4.0], scale=2.0)
    assert list(replayed.offsets()) == [0.0, 0.5, 2.0]
    assert list(replayed.offsets()) == [0.0, 0.5, 2.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", [Rate(4.0)]),
        ("0.5x", [Rate(0.5, True)]),
        ("1,2.5,.5", [Rate(1.0), Rate(2.5), Rate(0.5)]),
        ("0.5x,1x", [Rate(0.5, True), Rate(1.0, True)]),
        ("1:2:0.25", [Rate(1.0), Rate(1.25), Rate(1.5), Rate(1.75), Rate(2.0)]),
        ("0.1:0.3:0.1", [Rate(0.1), Rate(0.2), Rate(0.3)]),
        ("1:2:3", [Rate(1.0)]),
        ("0.5:1:0.5x", [Rate(0.5, True), Rate(1.0, True)]),
    ],
)
def test_rates_as_text(text: str, expected: list[Rate]) -> None:
    assert parse_rates(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "a", "1:2", "1:2:0", "2:1:1", "1,2:3:1", "1x2", "1:9:0.001", "inf"]
)
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="rate"):
        parse_rates(text)


@given(st.text(alphabet="0123456789.:,x- e", max_size=12))
def test_any_text_is_rates_or_an_error(text: str) -> None:
    try:
        assert all(rate.value > 0 for rate in parse_rates(text))
    except ConfigError:
        return


def test_wrong_numbers_are_errors() -> None:
    with pytest.raises(ConfigError, match="concurrency is 0"):
        AllAtOnce(0)
    with pytest.raises(ConfigError, match="rate is 0"):
        Poisson(0.0)
