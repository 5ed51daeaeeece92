"""Bottleneck: what the time of an instance's steps went into."""

from __future__ import annotations

from dataclasses import replace

from headrace.nouns.step_cost import StepLoad
from headrace.simulation.analytic_cost import AnalyticCost

EVERY = 16  # steps, of which one is looked into
BOUNDLESS = 1e9  # times as fast: takes no time beside the rest


class Bottleneck:
    """Looks into one of ``EVERY`` steps, and asks what would be saved by a faster device.

    ``compute`` is the share of time that products and attention without limit to their operations
    would save, ``bandwidth`` that which memory without limit to its bandwidth would, and
    ``overhead`` what neither would change: starting kernels, planning, delivery, and messages
    between devices. ``limit`` is the share that the device would need if it reached its peaks and
    had no overhead. Operations and bytes that take equally long share in no saving of their own,
    so the first three add up to at most 1.
    """

    def __init__(self, cost: AnalyticCost) -> None:
        device, shape = cost.device, cost.shape
        quick = {name: rate * BOUNDLESS for name, rate in device.peak.items()}
        ideal = replace(
            device, products=1.0, attention=1.0, reading=1.0, step_overhead=0.0,
            layer_overhead=0.0, sequence_overhead=0.0, link_latency=0.0,
            link=device.link * BOUNDLESS,
        )  # fmt: skip
        read = replace(device, bandwidth=device.bandwidth * BOUNDLESS)
        split = {"tensor": cost.tensor, "stages": cost.stages}
        self._cost = cost
        self._computed = AnalyticCost(replace(device, peak=quick), shape, **split)
        self._read = AnalyticCost(read, shape, **split)
        self._neither = AnalyticCost(replace(read, peak=quick), shape, **split)
        self._ideal = AnalyticCost(ideal, shape, **split)
        self._steps = 0
        self.seconds = 0.0
        self._saved = dict.fromkeys(("compute", "bandwidth", "overhead", "limit"), 0.0)

    def __call__(self, load: StepLoad) -> None:
        """A step has begun."""
        self._steps += 1
        if self._steps % EVERY != 1:
            return
        seconds = self._cost.seconds(load)
        saved = self._saved
        self.seconds += seconds
        saved["compute"] += seconds - self._computed.seconds(load)
        saved["bandwidth"] += seconds - self._read.seconds(load)
        saved["overhead"] += self._neither.seconds(load)
        saved["limit"] += self._ideal.seconds(load)

    @property
    def shares(self) -> dict[str, float]:
        """compute, bandwidth, overhead and limit, of the time of the steps; empty without any."""
        if not self.seconds:
            return {}
        return {name: value / self.seconds for name, value in self._saved.items()}
