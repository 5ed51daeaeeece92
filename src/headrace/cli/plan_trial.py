"""Trial: one simulation of a plan's search, and what bound it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from headrace.cli.plan_targets import PlanTargets
from headrace.cli.simulated_engine import SimulatedEngine
from headrace.cli.simulation_run import Simulated

SLOTS = "slots"
MOSTLY = 0.5


@dataclass(frozen=True, slots=True)
class Setting:
    """What an engine may be started with besides its policies."""

    token_budget: int
    max_sequences: int

    @classmethod
    def of(cls, engine: SimulatedEngine) -> Setting:
        limits = engine.spec.limits
        return cls(limits.token_budget, limits.sequences)

    def put(self, engine: SimulatedEngine) -> SimulatedEngine:
        """The same engine with this setting."""
        limits = replace(
            engine.spec.limits, token_budget=self.token_budget, sequences=self.max_sequences
        )
        return replace(engine, spec=replace(engine.spec, limits=limits))

    def __str__(self) -> str:
        return f"token budget {self.token_budget}, {self.max_sequences} sequences together"


@dataclass(frozen=True, slots=True)
class Trial:
    """One simulation of ``count`` instances. ``whole`` is false where it was ended early: then so
    many had missed that the targets could not be met any more."""

    count: int
    whole: bool
    meets: bool
    inside: float
    margin: float
    setting: Setting
    binds: str
    numbers: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "instances": self.count,
            "meets": self.meets,
            "whole": self.whole,
            "inside": self.inside,
            "margin": self.margin,
            "token_budget": self.setting.token_budget,
            "max_sequences": self.setting.max_sequences,
            "binds": self.binds,
            **self.numbers,
        }


def trial_of(
    count: int, done: Simulated, targets: PlanTargets, setting: Setting, requests: int
) -> Trial:
    """What came of ``count`` instances, of all ``requests`` or of those until it was known."""
    tally, totals = done.tally, done.totals
    summary = tally.summary()
    inside = tally.good / tally.requests
    up = sum(instance.up for instance in totals.instances)
    ttft, tpot = summary.ttft, summary.tpot
    numbers: dict[str, Any] = {
        "goodput": summary.goodput,
        "ttft_p99": None if ttft is None else ttft.p99,
        "tpot_p99": None if tpot is None else tpot.p99,
        "busy_share": totals.busy / up if up else 0.0,
        "full_share": _full(done),
        "peak_memory_share": max(i.peak_blocks / i.blocks for i in totals.instances),
        "time_shares": done.shares,
        "waits": dict(tally.waits.most_common()),
        "missed": dict(tally.missed.most_common()),
        "preemptions": totals.preemptions,
        "wall_seconds": done.wall,
    }
    return Trial(
        count=count,
        whole=tally.requests == requests,
        meets=tally.requests == requests and inside >= targets.share,
        inside=inside,
        margin=tally.margin,
        setting=setting,
        binds=what_binds(done),
        numbers=numbers,
    )


def what_binds(done: Simulated) -> str:
    """What the requests that missed had too little of, and which target they missed most.

    Memory, where requests waited longer for cache blocks (preempted ones included) than for the
    tokens and slots of steps, the queue behind the first of them left aside; slots, where most of
    the time that somebody waited no more sequences could run. Otherwise steps took too long: for
    their operations, their bytes or their overhead, whichever would save most.
    """
    waits, shares = done.tally.waits, done.shares
    memory = waits["memory"] + waits["preempted"]
    if memory > waits["budget"] + waits["batch"] and memory > 0:
        what = "memory"
    elif _full(done) > MOSTLY:
        what = SLOTS
    else:
        times = {name: shares.get(name, 0.0) for name in ("compute", "bandwidth", "overhead")}
        what = max(times, key=lambda name: times[name]) if shares else "step time"
    missed = [name for name, _ in done.tally.missed.most_common(1)]
    return f"{what} ({NAMES.get(missed[0], missed[0])})" if missed else what


def _full(done: Simulated) -> float:
    """The share of the time that somebody waited in which every slot was taken."""
    instances = done.totals.instances
    return sum(i.full for i in instances) / max(sum(i.crowded for i in instances), 1e-9)


NAMES = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2e": "E2E",
    "queue_full": "full queue",
    "target_out_of_reach": "TTFT",
}
