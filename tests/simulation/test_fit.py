"""Fitting prices: planted ones come back, under noise of the kind that machines make."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.nouns.errors import ConfigError
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.linear_cost import LinearCost
from headrace.simulation.fit import FEATURES, fit_cost, speed, wander

PLANTED = LinearCost(
    {"step": 2e-3, "rows[0:4]": 1e-4, "rows[4:16]": 2e-4, "rows[16:64]": 3e-4, "rows[64:]": 1.8e-4,
     "samples[0:8]": 2e-4, "samples[8:]": 1e-4, "decode_pairs": 1e-7, "prefill_pairs": 5e-8}
)  # fmt: skip


def loads(count: int, seed: int = 0) -> list[StepLoad]:
    """Steps of every kind in any order."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        kind = rng.integers(3)
        decodes = int(np.exp(rng.uniform(0, np.log(65)))) if kind != 1 else 0
        chunk = int(np.exp(rng.uniform(np.log(2), np.log(600)))) if kind else 0
        context, offset = int(rng.integers(1, 900)), int(rng.integers(0, 900))
        samples = decodes + int(rng.integers(2) if chunk else 0)
        pairs = decodes * context
        made.append(
            StepLoad(
                rows=decodes + chunk,
                slices=decodes + (chunk > 0),
                decodes=decodes,
                samples=samples,
                pairs=pairs + chunk * (2 * offset + chunk + 1) // 2,
                decode_pairs=pairs,
                sample_pairs=samples * context,
                read=decodes * (context - 1) + (offset if chunk else 0),
            )
        )
    return made


def worst(found: LinearCost, planted: LinearCost, factor: float = 1.0) -> float:
    """The largest relative deviation of predictions for steps of every kind."""
    return max(
        abs(found.seconds(load) / (factor * planted.seconds(load)) - 1) for load in loads(300, 9)
    )


def test_planted_prices_come_back() -> None:
    found = fit_cost([(load, PLANTED.seconds(load)) for load in loads(400)])
    assert worst(found, PLANTED) < 1e-6
    assert found.coefficients["rows[64:]"] == pytest.approx(1.8e-4, rel=1e-4)
    assert all(error.p90 < 1e-6 for error in found.errors.values())
    assert set(found.errors) == {"decode", "prefill", "mixed"}


def test_hiccups_are_clipped() -> None:
    rng = np.random.default_rng(1)
    noise = 1 + 0.05 * rng.exponential(1, 2000)
    noise[rng.random(2000) < 0.02] *= 50
    samples = [
        (load, n * PLANTED.seconds(load)) for load, n in zip(loads(2000), noise, strict=True)
    ]
    found = fit_cost(samples)
    # The mean of the noise is 1.05; a clipped hiccup adds at most two times the step's time.
    assert worst(found, PLANTED, 1.07) < 0.08
    assert found.errors["decode"].median < 0.08


def test_a_machine_whose_speed_wanders_does_not_bend_the_prices() -> None:
    """Twice as slow for seconds on end, whatever ran then: prices keep their proportions."""
    rng = np.random.default_rng(2)
    samples, now = [], 0.0
    for load in loads(4000):
        slow = 2.0 if int(now / 7) % 3 == 1 else 1.0
        seconds = PLANTED.seconds(load) * slow * (1 + 0.05 * rng.exponential())
        now += seconds
        samples.append((load, seconds))
    found = fit_cost(samples)
    level = sum(s for _, s in samples) / sum(PLANTED.seconds(load) for load, _ in samples)
    assert worst(found, PLANTED, level) < 0.1
    assert found.errors["mixed"].steady_median < 0.5 * found.errors["mixed"].median
    assert 0.5 < wander(found, samples) < 1.0  # of a doubling, averaged over seconds


def test_prices_predict_the_mean_of_one_sided_noise() -> None:
    rng = np.random.default_rng(3)
    samples = [(load, PLANTED.seconds(load) * (1 + rng.exponential(0.3))) for load in loads(4000)]
    found = fit_cost(samples)
    total = sum(found.seconds(load) for load, _ in samples)
    assert total == pytest.approx(sum(s for _, s in samples), rel=0.03)
    assert abs(found.errors["decode"].bias) < 0.05
    assert wander(found, samples) < 0.2


def test_too_few_steps_are_no_measurement() -> None:
    with pytest.raises(ConfigError, match="at least 50"):
        fit_cost([(StepLoad(rows=1), 0.1)] * 49)


def test_steps_of_one_kind_fit_too() -> None:
    load = StepLoad(rows=1, slices=1, decodes=1, samples=1, pairs=5, decode_pairs=5, read=4)
    found = fit_cost([(load, 0.01)] * 60)
    assert found.seconds(load) == pytest.approx(0.01)
    assert set(found.errors) == {"decode"}
    assert set(found.coefficients) == {"step", *FEATURES}


def test_speed_is_local() -> None:
    predicted = np.full(2000, 0.01)
    measured = predicted * np.where(np.arange(2000) < 1000, 1.0, 1.5)
    found = speed(predicted, measured)
    assert found[100] == pytest.approx(1.0, abs=0.02)
    assert found[1900] == pytest.approx(1.5, abs=0.02)
