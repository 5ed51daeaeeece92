"""PlanSearch: the cheapest fleet that meets targets, by search over simulations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from headrace.cli.plan_candidate import Candidate
from headrace.cli.plan_targets import PlanTargets
from headrace.cli.plan_trial import SLOTS, Setting, Trial, trial_of
from headrace.cli.simulated_engine import SimulatedEngine, simulated_engine
from headrace.cli.simulated_fleet import DeviceChoice, SimulatedFleet
from headrace.cli.simulated_load import SimulatedLoad
from headrace.cli.simulated_tally import SimulatedTally
from headrace.cli.simulation_run import SimulationRun
from headrace.engine.build import PREFILL_ROOM
from headrace.engine.config import EngineConfig
from headrace.nouns.errors import ConfigError
from headrace.simulation.count_search import CountSearch
from headrace.simulation.least_work import least_work

MOST = 64  # instances, where no number is given
BUDGETS = (256, 512, 1024, 2048)
"""Token budgets tried besides the one that an engine would choose."""
SEQUENCES = 256
"""Sequences together that are tried where the default number of slots binds."""
Report = Callable[[str], None]


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
                    f"at least {low} needed, {low * candidate.each:.2f} dollars an hour: dearer"
                    " than what was found"
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
        instances = "1 instance" if count == 1 else f"{count} instances"
        self.report(f"{candidate.choice}, {instances}, {candidate.policy}, {setting}")
        choice = replace(candidate.choice, count=count)
        fleet = SimulatedFleet((choice,), (engine,), self.seed)
        run = SimulationRun(fleet, candidate.config, self.router, self.targets.slo, self.seed)
        load = replace(self.load, max_context=min(self.load.max_context or engine.max_context,
                                                  engine.max_context))  # fmt: skip
        allowed = math.floor((1 - self.targets.share) * load.count + 1e-9)

        def enough(tally: SimulatedTally) -> bool:
            return early and tally.requests - tally.good > allowed

        done = run.simulate(load, enough=enough)
        trial = trial_of(count, done, self.targets, setting, load.count)
        candidate.trials.append(trial)
        return trial


def _least_price(candidate: Candidate) -> float:
    least = 1 if candidate.least is None else candidate.least.count
    return least * candidate.each


def _rank(candidate: Candidate) -> tuple[float, int]:
    """Cheaper is better; where prices are not known, fewer."""
    price = candidate.price
    return (math.inf if price is None else price, candidate.count or 0)
