"""LeastWork: what a load needs of a device at least, whatever the schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from headrace.nouns.request import Targets
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.simulation.analytic_cost import AnalyticCost
from headrace.simulation.arrival import Arrival
from headrace.simulation.bottleneck import BOUNDLESS


@dataclass(frozen=True, slots=True)
class LeastWork:
    """``alone`` is the share of requests that meet their targets on an idle device; more cannot,
    on any number of devices. ``best_ttft`` and ``best_tpot`` are the medians of the least times in
    seconds. ``count`` is a number of devices below which the targets cannot be met.
    """

    alone: float
    best_ttft: float
    best_tpot: float
    count: int


def least_work(
    arrivals: Iterable[Arrival], cost: StepCost, sequences: int, targets: Targets, share: float
) -> LeastWork:
    """Bounds for ``share`` of the requests to meet ``targets`` (deadline after the arrival).

    The operations and bytes of a request do not depend on the schedule (prompts are taken to have
    nothing in common), and at most ``sequences`` tokens come of one reading of the weights. A
    roofline bounds the number of devices by the sums of both, over the time until the last answer
    has to be there. Other cost models give no such bound: the count is 1.
    """
    ttfts, tpots, needs = [], [], []
    inside = last = longest = 0.0
    roof = _Roof(cost, sequences) if isinstance(cost, AnalyticCost) else None
    total = 0
    for arrival in arrivals:
        ttft, tpot = _alone(arrival, cost)
        ttfts.append(ttft)
        tpots.append(tpot)
        total += 1
        e2e = ttft + (arrival.output_tokens - 1) * tpot
        late = _above(ttft, targets.ttft) or _above(e2e, targets.deadline)
        inside += not (late or (arrival.output_tokens > 1 and _above(tpot, targets.tpot)))
        last = arrival.at
        longest = max(longest, _patience(arrival, targets))
        if roof is not None:
            needs.append(roof.needs(arrival, decodes=not math.isinf(_patience(arrival, targets))))
    if not total:
        return LeastWork(1.0, 0.0, 0.0, 1)
    if math.isinf(longest):  # only first tokens have to be there in time
        longest = math.inf if targets.ttft is None else targets.ttft
    count = _count(np.array(needs), share, last + longest) if needs else 1
    return LeastWork(inside / total, float(np.median(ttfts)), float(np.median(tpots)), count)


class _Roof:
    """A request's seconds of compute and of memory, with neither overhead nor waiting."""

    def __init__(self, cost: AnalyticCost, sequences: int) -> None:
        bare = replace(cost.device, step_overhead=0.0, layer_overhead=0.0, sequence_overhead=0.0,
                       link_latency=0.0, link=cost.device.link * BOUNDLESS)  # fmt: skip
        quick = {name: rate * BOUNDLESS for name, rate in bare.peak.items()}
        split = {"tensor": cost.tensor, "stages": cost.stages}
        reading = replace(bare, bandwidth=bare.bandwidth * BOUNDLESS)
        self._compute = AnalyticCost(reading, cost.shape, **split)
        self._memory = AnalyticCost(replace(bare, peak=quick), cost.shape, **split)
        self._weights = self._memory.seconds(StepLoad(rows=1, samples=1))
        self._sequences = sequences

    def needs(self, arrival: Arrival, decodes: bool) -> tuple[float, float]:
        """(seconds of compute, seconds of memory); without ``decodes`` of its prompt alone."""
        outputs = arrival.output_tokens if decodes else 1
        prompt, rows = arrival.prompt_tokens, arrival.prompt_tokens + outputs - 1
        decoded = (outputs - 1) * prompt + (outputs - 1) * outputs // 2
        load = StepLoad(
            rows=rows,
            samples=outputs,
            pairs=prompt * (prompt + 1) // 2 + decoded,
            sample_pairs=prompt + decoded,
            read=decoded,
        )
        compute = self._compute.seconds(load)
        state = self._memory.seconds(load) - self._weights
        return arrival.n * compute, arrival.n * (state + outputs * self._weights / self._sequences)


def _count(needs: np.ndarray[tuple[int, int], np.dtype[np.float64]], share: float,
           seconds: float) -> int:  # fmt: skip
    """Devices that the easiest ``share`` of the requests keep busy all the time."""
    if math.isinf(seconds):
        return 1
    easiest = np.sort(needs, axis=0)[: math.ceil(share * len(needs))]
    busy = float(easiest.sum(axis=0).max())
    return max(1, math.ceil(busy / max(seconds, 1e-9) - 1e-9))


def _alone(arrival: Arrival, cost: StepCost) -> tuple[float, float]:
    """Least TTFT and TPOT: the prompt in one step, then steps of one row."""
    prompt = arrival.prompt_tokens
    whole = StepLoad(
        rows=prompt, slices=1, samples=1, pairs=prompt * (prompt + 1) // 2, sample_pairs=prompt
    )
    row = StepLoad(rows=1, slices=1, decodes=1, samples=1, pairs=prompt + 1,
                   decode_pairs=prompt + 1, sample_pairs=prompt + 1, read=prompt)  # fmt: skip
    return cost.seconds(whole), cost.seconds(row)


def _patience(arrival: Arrival, targets: Targets) -> float:
    """Seconds after its arrival by which a request that meets its targets has ended."""
    patience = math.inf if targets.deadline is None else targets.deadline
    if targets.ttft is not None and targets.tpot is not None:
        patience = min(patience, targets.ttft + targets.tpot * (arrival.output_tokens - 1))
    return patience


def _above(value: float, bound: float | None) -> bool:
    return bound is not None and value > bound
