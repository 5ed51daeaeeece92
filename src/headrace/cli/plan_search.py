"""PlanSearch: the cheapest fleet that meets targets, by search over simulations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.cli.plan_targets import PlanTargets
from headrace.cli.simulated_engine import SimulatedEngine, simulated_engine
from headrace.cli.simulated_fleet import DeviceChoice, SimulatedFleet
from headrace.cli.simulated_load import SimulatedLoad
from headrace.cli.simulated_tally import SimulatedTally
from headrace.cli.simulation_run import Simulated, SimulationRun
from headrace.engine.build import PREFILL_ROOM
from headrace.engine.config import EngineConfig
from headrace.nouns.errors import ConfigError
from headrace.simulation.count_search import CountSearch
from headrace.simulation.least_work import LeastWork, least_work

MOST = 64  # instances, where no number is given
BUDGETS = (256, 512, 1024, 2048)
"""Token budgets tried besides the one that an engine would choose."""
SEQUENCES = 256
"""Sequences together that are tried where the default number of slots binds."""
SLOTS = "slots"
MOSTLY = 0.5
Report = Callable[[str], None]


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


@dataclass(slots=True)
class Candidate:
    """A device under a configuration, and what came of trying it.

    ``count`` is the least number of instances that meets the targets, None where none was found;
    ``left_out`` then says why, if it was not tried to the end.
    """

    choice: DeviceChoice
    config: EngineConfig
    engine: SimulatedEngine | None
    policy: str
    least: LeastWork | None = None
    trials: list[Trial] = field(default_factory=list)
    count: int | None = None
    left_out: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def each(self) -> float:
        """Dollars per hour of one instance; infinite where it is not known."""
        price = None if self.engine is None else self.engine.price
        return math.inf if price is None else price

    @property
    def price(self) -> float | None:
        """Dollars per hour of the fleet found."""
        return None if self.count is None or math.isinf(self.each) else self.count * self.each

    @property
    def best(self) -> Trial | None:
        """The trial of the number found, or else the one that came nearest."""
        if self.count is not None:
            return next(t for t in self.trials if t.count == self.count and t.meets)
        return max(self.trials, key=lambda trial: (trial.whole, trial.inside), default=None)

    @property
    def binds(self) -> str:
        """What kept one instance fewer from meeting the targets, or the nearest where none does;
        empty where a single one is enough."""
        failing = [t for t in self.trials if not t.meets]
        if self.count is not None:
            failing = [t for t in failing if t.count < self.count]
        nearest = max(failing, key=lambda trial: (trial.count, trial.inside), default=None)
        return "" if nearest is None else nearest.binds


@dataclass(frozen=True, slots=True)
class PlanSearch:
    """``load`` has to be carried inside ``targets`` by one kind of device under one policy."""

    load: SimulatedLoad
    targets: PlanTargets
    router: str
    seed: int
    report: Report

    def candidates(
        self, devices: list[str], configs: list[tuple[str, EngineConfig]]
    ) -> list[Candidate]:
        """All combinations, those that cannot hold the model left out. Raises ConfigError."""
        found = []
        for choice in [DeviceChoice.parse(text) for text in devices]:
            for policy, config in configs:
                try:
                    engine = simulated_engine(choice.name, choice.tensor, config, self.report)
                except ConfigError as error:
                    if "does not fit" not in str(error):
                        raise
                    found.append(Candidate(choice, config, None, policy, left_out=str(error)))
                else:
                    found.append(Candidate(choice, config, engine, policy))
        return found

    def run(self, candidates: list[Candidate]) -> Candidate | None:
        """Fills in what came of each candidate; the cheapest that meets the targets."""
        for candidate in candidates:
            if candidate.engine is not None:
                self._bound(candidate, candidate.engine)
        best: Candidate | None = None
        # The cheapest by their bounds come first, so that dear ones need no simulations.
        for candidate in sorted(candidates, key=_least_price):
            if candidate.engine is None or candidate.left_out:
                continue
            self._search(candidate, best)
            if candidate.count is not None and (best is None or _rank(candidate) < _rank(best)):
                best = candidate
        if best is not None:
            self._check(best)
        else:
            self._complete(candidates)
        return best

    def _complete(self, candidates: list[Candidate]) -> None:
        """What came nearest is simulated to its end, to say how near."""
        tried = [(candidate, trial) for candidate in candidates for trial in candidate.trials]
        if tried:
            candidate, near = max(tried, key=lambda pair: pair[1].inside)
            candidate.trials.remove(near)
            self._try(candidate, near.count, near.setting, early=False)

    def _check(self, best: Candidate) -> None:
        """More instances have to do no worse, as the search took for granted."""
        assert best.best is not None
        assert best.count is not None
        assert best.least is not None
        setting = best.best.setting
        known = {trial.count: trial for trial in best.trials if trial.setting == setting}
        search = CountSearch(lambda count: self._try(best, count, setting), known)
        contrary = search.check(best.count, best.least.count, best.choice.count or MOST)
        best.notes += [f"{best.choice}: {found}" for found in contrary]

    def _bound(self, candidate: Candidate, engine: SimulatedEngine) -> None:
        load = replace(self.load, max_context=min(self.load.max_context or engine.max_context,
                                                  engine.max_context))  # fmt: skip
        sequences = engine.spec.limits.sequences
        targets, share = self.targets.stated, self.targets.share
        least = least_work(load, engine.spec.cost, sequences, targets, share)
        candidate.least = least
        most = candidate.choice.count or MOST
        if least.alone < share:
            candidate.left_out = (
                f"latency: only {least.alone:.1%} of the requests meet the targets even alone"
                f" (TTFT {1e3 * least.best_ttft:.0f} ms, TPOT {1e3 * least.best_tpot:.1f} ms at"
                " best in the median)"
            )
        elif least.count > most:
            candidate.left_out = f"at least {least.count} instances are needed, {most} allowed"

    def _search(self, candidate: Candidate, best: Candidate | None) -> None:
        assert candidate.least is not None
        low, high = candidate.least.count, candidate.choice.count or MOST
        if best is not None and best.price is not None and candidate.each < math.inf:
            cheaper = math.ceil(best.price / candidate.each) - 1  # so many cost less than the best
            if cheaper < low:
                candidate.left_out = (
                    f"{low} or more are needed, {low * candidate.each:.2f} dollars an hour or more"
                )
                return
            high = min(high, cheaper)
        assert candidate.engine is not None
        count = self._least(candidate, Setting.of(candidate.engine), low, high)
        count = self._other_settings(candidate, count, low, high)
        candidate.count = count
        if count is None and high < (candidate.choice.count or MOST):
            candidate.left_out = f"more than {high} are needed: dearer than what was found"

    def _least(self, candidate: Candidate, setting: Setting, low: int, high: int) -> int | None:
        return CountSearch(lambda count: self._try(candidate, count, setting)).least(low, high)

    def _other_settings(
        self, candidate: Candidate, count: int | None, low: int, high: int
    ) -> int | None:
        """Whether more slots or another token budget do with fewer instances, or at all."""
        assert candidate.engine is not None
        own = Setting.of(candidate.engine)
        budgets = [b for b in BUDGETS if b != own.token_budget]
        if candidate.config.token_budget is not None:
            budgets = []
        others = [replace(own, token_budget=b) for b in budgets if b >= own.max_sequences]
        default = EngineConfig().max_sequences
        if own.max_sequences == default and candidate.binds.startswith(SLOTS):
            least = SEQUENCES + PREFILL_ROOM
            wider = sorted({max(b, least) for b in (own.token_budget, *budgets)})
            others = [Setting(b, SEQUENCES) for b in wider] + others
        for setting in others:
            wanted = high if count is None else count - 1
            if wanted < low:
                break
            if self._try(candidate, wanted, setting).meets:
                count = self._least(candidate, setting, low, wanted)
        return count

    def _try(self, candidate: Candidate, count: int, setting: Setting, early: bool = True) -> Trial:
        """One simulation; with ``early`` no longer than until the targets are out of reach."""
        known = [t for t in candidate.trials if (t.count, t.setting) == (count, setting)]
        if known and (early or known[0].whole):
            return known[0]
        assert candidate.engine is not None
        engine = setting.put(candidate.engine)
        self.report(f"{candidate.choice}, {count} instances, {candidate.policy}, {setting}")
        choice = replace(candidate.choice, count=count)
        fleet = SimulatedFleet((choice,), (engine,), self.seed)
        run = SimulationRun(fleet, candidate.config, self.router, self.targets.slo, self.seed)
        load = replace(self.load, max_context=min(self.load.max_context or engine.max_context,
                                                  engine.max_context))  # fmt: skip
        allowed = math.floor((1 - self.targets.share) * load.count + 1e-9)

        def enough(tally: SimulatedTally) -> bool:
            return early and tally.requests - tally.good > allowed

        done = run.simulate(load, enough=enough)
        trial = _trial(count, done, self.targets, setting, load.count)
        candidate.trials.append(trial)
        return trial


def _trial(
    count: int, done: Simulated, targets: PlanTargets, setting: Setting, requests: int
) -> Trial:
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


def _least_price(candidate: Candidate) -> float:
    least = 1 if candidate.least is None else candidate.least.count
    return least * candidate.each


def _rank(candidate: Candidate) -> tuple[float, int]:
    """Cheaper is better; where prices are not known, fewer."""
    price = candidate.price
    return (math.inf if price is None else price, candidate.count or 0)
