"""QuantileSketch: within its stated error of what numpy says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.simulation.sketch import ERROR, QuantileSketch

VALUES = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-8, 1e6, allow_nan=False)), min_size=1, max_size=200
)


def filled(values: list[float]) -> QuantileSketch:
    sketch = QuantileSketch()
    for value in values:
        sketch.add(value)
    return sketch


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 1.0]))
def test_quantiles_lie_within_the_stated_error(values: list[float], share: float) -> None:
    exact = float(np.quantile(values, share))
    assert filled(values).quantile(share) == pytest.approx(exact, rel=1.0001 * ERROR, abs=1e-9)


@given(VALUES)
def test_count_mean_and_extremes_are_exact(values: list[float]) -> None:
    sketch = filled(values)
    assert sketch.count == len(values)
    assert sketch.mean == pytest.approx(float(np.mean(values)))
    assert (sketch.quantile(0.0), sketch.quantile(1.0)) == (min(values), max(values))


@given(VALUES, VALUES)
def test_merged_sketches_are_one_of_all_values(one: list[float], other: list[float]) -> None:
    merged = filled(one)
    merged.merge(filled(other))
    whole = filled(one + other)
    assert merged.count == whole.count
    for share in (0.1, 0.5, 0.99):
        assert merged.quantile(share) == whole.quantile(share)


def test_counting_a_value_many_times_is_adding_it_so_often() -> None:
    sketch = QuantileSketch()
    sketch.add(2.0, times=3)
    sketch.add(5.0)
    whole = filled([2.0, 2.0, 2.0, 5.0])
    assert (sketch.count, sketch.mean) == (4, 2.75)
    assert sketch.quantile(0.6) == whole.quantile(0.6)


def test_memory_does_not_grow_with_the_number_of_values() -> None:
    sketch = QuantileSketch()
    for value in np.random.default_rng(0).lognormal(0, 3, 20_000):
        sketch.add(float(value))
    assert len(sketch._buckets) < 4200


def test_an_empty_sketch_has_no_quantiles() -> None:
    assert QuantileSketch().mean == 0.0
    with pytest.raises(ValueError, match="without values"):
        QuantileSketch().quantile(0.5)
