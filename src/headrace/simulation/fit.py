"""Fitting a LinearCost to measured steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from headrace.nouns.errors import ConfigError
from headrace.nouns.step_cost import StepLoad
from headrace.scheduling.linear_cost import (
    CONSTANT,
    PHASES,
    CostError,
    Feature,
    LinearCost,
    phase_of,
)

Sample = tuple[StepLoad, float]
Array = NDArray[np.float64]

FEATURES = (
    "rows[0:4]",
    "rows[4:16]",
    "rows[16:64]",
    "rows[64:]",
    "slices",
    "samples[0:8]",
    "samples[8:]",
    "decode_pairs",
    "prefill_pairs",
    "prefill_pairs[400000:]",
    "read",
)
"""What a step's time is made of: rows through the layers' products, whose price per row falls until
the processor is busy; sequences, to be planned, laid out and delivered; rows through the output
matrix and sampling; attention, dearer where a prompt's state is larger than the processor's near
caches; the state that is read for it."""

CLIP = 3.0
"""A step that took longer than this times what is predicted was disturbed; it counts as so long."""
WANDER = 2.0
"""Seconds over which the machine's speed is averaged, to tell its wandering from the load."""
ROUNDS = 12
FOLDS = 10
LEAST = 50
"""Fewer steps are no measurement."""


def fit_cost(samples: Sequence[Sample], features: Sequence[str] = FEATURES) -> LinearCost:
    """The prices that predict ``samples`` (load, seconds; in the order of time) best.

    Errors are cross-validated over ``FOLDS`` stretches of time: each is predicted by what was
    fitted to the others. Raises ConfigError for fewer than ``LEAST`` samples.
    """
    if len(samples) < LEAST:
        raise ConfigError(f"{len(samples)} steps were measured; a fit needs at least {LEAST}")
    counts, seconds = _matrix(samples, features), np.array([s for _, s in samples])
    predicted = np.empty_like(seconds)
    for fold in np.array_split(np.arange(len(samples)), FOLDS):
        others = np.ones(len(samples), dtype=bool)
        others[fold] = False
        predicted[fold] = counts[fold] @ solve(counts[others], seconds[others])
    names = (CONSTANT, *features)
    prices = solve(counts, seconds)
    cost = LinearCost({name: float(price) for name, price in zip(names, prices, strict=True)})
    return replace(cost, errors=errors_of([load for load, _ in samples], predicted, seconds))


def errors_of(loads: Sequence[StepLoad], predicted: Array, measured: Array) -> dict[str, CostError]:
    """Errors by phase, of the phases that occur. Steps are in the order of time."""
    phases = np.array([phase_of(load) for load in loads])
    steady = predicted * speed(predicted, measured)
    found = {}
    for phase in PHASES:
        of = phases == phase
        if not of.any():
            continue
        raw, slow = (
            np.quantile(np.abs(guess[of] - measured[of]) / measured[of], (0.5, 0.9))
            for guess in (predicted, steady)
        )
        found[phase] = CostError(
            steps=int(of.sum()),
            median=float(raw[0]),
            p90=float(raw[1]),
            bias=float(predicted[of].sum() / measured[of].sum() - 1),
            steady_median=float(slow[0]),
            steady_p90=float(slow[1]),
        )
    return found


def solve(counts: Array, seconds: Array) -> Array:
    """Prices p >= 0, one for each column, so that counts @ p is near seconds on the mean.

    Relative least squares: deviations count relative to the *predicted* time, which is found by
    repetition (relative to the measured one, they would favour the steps that were fastest). What
    took longer than ``CLIP`` times its prediction is taken to have taken that long. Where other
    programs slow the machine down for seconds on end, what ran then would look expensive; so steps
    are divided by the machine's ``speed`` at their time, and all prices are brought to its mean at
    the end.
    """
    prices = np.zeros(counts.shape[1])
    target, scale, wander = seconds, seconds, np.ones_like(seconds)
    for _ in range(ROUNDS):
        prices = _non_negative(counts / scale[:, None], target / scale)
        scale = np.maximum(counts @ prices, 1e-9)
        wander = speed(scale, seconds)
        target = np.minimum(seconds / wander, CLIP * scale)
    return np.asarray(prices * (scale * wander).sum() / scale.sum())


def speed(predicted: Array, measured: Array) -> Array:
    """By how much steps took longer than predicted around each one's time.

    The ratio of sums of measured (clipped) and predicted seconds in which others count e^(-distance
    / WANDER), in both directions.
    """
    ends = np.cumsum(measured)
    clipped = np.minimum(measured, CLIP * predicted * np.median(measured / predicted))
    above = _faded(clipped, ends) + _faded(clipped[::-1], -ends[::-1])[::-1] - clipped
    below = _faded(predicted, ends) + _faded(predicted[::-1], -ends[::-1])[::-1] - predicted
    return np.asarray(above / below)


def wander(cost: LinearCost, samples: Sequence[Sample]) -> float:
    """By how much the machine was slower in its slow moments (a tenth of the time) than in its fast
    ones (another tenth), beyond what the steps had to do: near 0 on a machine of one's own."""
    predicted = np.array([cost.seconds(load) for load, _ in samples])
    measured = np.array([seconds for _, seconds in samples])
    found = speed(predicted, measured)
    order = np.argsort(found)
    passed = np.cumsum(measured[order])
    fast, slow = np.searchsorted(passed, (0.1 * passed[-1], 0.9 * passed[-1]))
    return float(found[order[slow]] / found[order[fast]] - 1)


def _faded(values: Array, at: Array) -> Array:
    """Running sums in which earlier values fade. ``at`` are times, ascending."""
    kept = np.exp(-np.diff(at, prepend=at[0]) / WANDER).tolist()
    total, sums = 0.0, []
    for value, keep in zip(values.tolist(), kept, strict=True):
        total = total * keep + value
        sums.append(total)
    return np.array(sums)


def _non_negative(matrix: Array, target: Array) -> Array:
    """The x >= 0 with the least |matrix x - target|², columns brought to one scale first."""
    norms = np.linalg.norm(matrix, axis=0)
    norms[norms == 0] = 1.0
    found, _ = nnls(matrix / norms, target)
    return np.asarray(found / norms)


def _matrix(samples: Sequence[Sample], features: Sequence[str]) -> Array:
    parsed = [Feature.parse(name) for name in features]
    rows = [[1.0, *(float(f.of(load)) for f in parsed)] for load, _ in samples]
    return np.array(rows)
