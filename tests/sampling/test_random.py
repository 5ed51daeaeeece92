from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.sampling.random import splitmix64, stream, uniforms

WORDS = st.integers(0, 2**64 - 1)


def test_known_outputs() -> None:
    # The published reference sequence for the starting value 1234567.
    assert [splitmix64(1234567, n) for n in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.lists(st.tuples(WORDS, st.integers(0, 2**31)), min_size=1, max_size=20))
def test_a_number_is_53_bits_of_its_own_output(pairs: list[tuple[int, int]]) -> None:
    got = uniforms([s for s, _ in pairs], [p for _, p in pairs])
    assert got.tolist() == [(splitmix64(s, p) >> 11) / 2**53 for s, p in pairs]
    assert (got >= 0).all()
    assert (got < 1).all()


@given(st.integers(-(2**63), 2**64 - 1))
def test_seeds_are_taken_modulo_two_to_the_64(seed: int) -> None:
    assert stream(seed, 3) == stream(seed % 2**64, 3)


def _chi_square(numbers: np.ndarray, bins: int) -> float:
    counts = np.histogram(numbers, bins=bins, range=(0, 1))[0]
    expected = len(numbers) / bins
    return float(((counts - expected) ** 2 / expected).sum())


def test_uniform_along_each_axis_and_in_pairs() -> None:
    # 99 degrees of freedom: mean 99, deviation 14; 180 is 5.8 deviations up, 40 is 4.2 down.
    n = 20_000
    along = {
        "positions": uniforms([stream(1, 0)] * n, list(range(n))),
        "indices": uniforms([stream(1, i) for i in range(n)], [7] * n),
        "seeds": uniforms([stream(s, 0) for s in range(n)], [7] * n),
    }
    for name, numbers in along.items():
        assert 40 < _chi_square(numbers, 100) < 180, name
        pairs = (np.floor(numbers[:-1] * 10) + numbers[1:]) / 10
        assert 40 < _chi_square(pairs, 100) < 180, name
