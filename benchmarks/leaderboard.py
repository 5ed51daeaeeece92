"""Leaderboard: policies against kinds of traffic, by the requests they serve inside targets.

For each policy and traffic: the highest rate at which 99 % of the requests are inside TTFT 1 s and
TPOT 100 ms (simulated, by bisection), and the good requests a second when 1.2 times as many arrive
as the engine completes at most, where requests state these targets and where they do not
(simulated; with --live the former also on the live engine).

    python -m benchmarks.leaderboard [--live] --page docs/leaderboard.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.fidelity import TARGETS, Scenario, saturation
from benchmarks.goodput import TPOT, TTFT, run_live, with_policies
from benchmarks.in_process import add_engine_options, config_of
from benchmarks.replay import Replayed, say, simulated
from benchmarks.traffic import Lengths, code, conversation, recorded
from headrace.cli.simulated_engine import measured_engine
from headrace.engine.config import EngineConfig
from headrace.nouns.request import Targets

MAX_CONTEXT = 4096
SHARE = 0.99
OVERLOAD = 1.2
STEPS = 7  # of bisection
NONE = Targets()
PLAIN = {
    "order": "fcfs",
    "admission": "watermark",
    "batching": "stall-free",
    "preemption": "recompute",
}
ENTRIES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "fcfs": PLAIN,
    "shortest": {**PLAIN, "order": "shortest"},
    "fair": {**PLAIN, "order": "fair"},
    "deadline": {**PLAIN, "order": "deadline"},
    "reserve": {**PLAIN, "admission": "reserve"},
    "future": {**PLAIN, "admission": "future"},
    "uniform": {**PLAIN, "batching": "uniform"},
    "prefill-first": {**PLAIN, "batching": "prefill-first"},
    "static": {**PLAIN, "batching": "static"},
}


@dataclass(frozen=True, slots=True)
class Score:
    """One policy on one kind of traffic; rates in requests a second.

    ``untold`` are the good ones where no request states its targets.
    """

    policy: str
    traffic: str
    saturation: float
    rate: float
    good: float
    untold: float
    good_live: float | None


def kinds(talk: Lengths) -> list[Scenario]:
    """The traffic that policies are compared on."""
    return [
        Scenario("conversation", 1.0, talk),
        Scenario("code", 1.0, code),
        Scenario("bursty", 1.0, talk, {"burstiness": 2.0}),
    ]


def good_rate(run: Replayed) -> float:
    """Requests a second inside the targets, over the time of arrivals."""
    good = sum(o.inside(TTFT, TPOT) for o in run.outcomes)
    return good / max(run.outcomes[-1].at, 1e-9)


def share_inside(run: Replayed) -> float:
    return sum(o.inside(TTFT, TPOT) for o in run.outcomes) / len(run.outcomes)


class Board:
    """Scores policies on one engine and model."""

    def __init__(self, base: EngineConfig, count: int, live_minutes: float | None) -> None:
        self._base = base
        self._spec = measured_engine(base, say).spec
        self._count = count
        self._live_minutes = live_minutes

    def score(self, name: str, options: Mapping[str, Any], kind: Scenario) -> Score:
        """One entry. ``options`` name policies."""
        config = replace(self._base, **options)
        full = saturation(self._spec, kind)
        over, untold = (self._run(config, kind, OVERLOAD * full, told) for told in (TARGETS, NONE))
        live: float | None = None
        if self._live_minutes is not None:
            count = max(32, round(OVERLOAD * full * 60 * self._live_minutes))
            traffic = kind.traffic_at(OVERLOAD * full, count, seed=5)
            live = good_rate(run_live(config, replace(traffic, targets=TARGETS)))
        rate = self._highest(config, kind, full)
        found = Score(name, kind.name, full, rate, good_rate(over), good_rate(untold), live)
        say(f"{name} on {kind.name}: {rate:.2f}/s inside, {found.good:.2f}/s good, {live}")
        return found

    def _highest(self, config: EngineConfig, kind: Scenario, full: float) -> float:
        """The highest rate with enough requests inside, to 1/2**STEPS of twice saturation."""
        low, high = 0.0, 2 * full
        for _ in range(STEPS):
            middle = (low + high) / 2
            inside = share_inside(self._run(config, kind, middle)) >= SHARE
            low, high = (middle, high) if inside else (low, middle)
        return low

    def _run(
        self, config: EngineConfig, kind: Scenario, rate: float, told: Targets = TARGETS
    ) -> Replayed:
        traffic = replace(kind.traffic_at(rate, self._count, seed=5), targets=told)
        return simulated(with_policies(self._spec, config), traffic)


def page(scores: Sequence[Score], about: str, figure: str) -> str:
    """The page of the documentation."""
    names = list(dict.fromkeys(score.traffic for score in scores))
    with_live = any(score.good_live is not None for score in scores)
    heads = [f"{name}: rate | good | untold" for name in names]
    if with_live:
        heads = [f"{head} | live" if i == 0 else head for i, head in enumerate(heads)]
    columns = 1 + 3 * len(names) + with_live
    lines = ["| policy | " + " | ".join(heads) + " |", "|" + "---|" * columns]
    for policy in dict.fromkeys(score.policy for score in scores):
        cells = []
        for i, name in enumerate(names):
            (score,) = [s for s in scores if (s.policy, s.traffic) == (policy, name)]
            cells += [f"{score.rate:.2f}", f"{score.good:.2f}", f"{score.untold:.2f}"]
            if with_live and i == 0:
                cells.append("" if score.good_live is None else f"{score.good_live:.2f}")
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return PAGE.format(about=about, figure=figure, table="\n".join(lines), share=f"{SHARE:.0%}")


PAGE = """# Leaderboard

Policies on three kinds of traffic. *Rate* is the highest rate (requests a second) at which
{share} of the requests have their first token within 1 s and the others 100 ms apart on average.
*Good* are the requests a second inside both targets when 1.2 times as many arrive as the
engine completes at most, and each states its targets; *untold*, where none does. Prompts have up
to 4,096 tokens, of which the longest take the engine most of a second alone. {about}

{table}

![Good requests a second at 1.2 times saturation]({figure})

The names are those of [policies.md](policies.md); `default` is what an engine does unless told
otherwise, the others change one policy of first come first served, `watermark`, `stall-free`,
`recompute`. Where targets are stated, the door turns away whom it cannot serve in time whatever
the policies, the budget of `stall-free` and `uniform` keeps decodes in time, and little is left
for an order to do; untold, there is no door, and `deadline` is first come, first served.

Built by `python -m benchmarks.leaderboard --live --page docs/leaderboard.md`.
"""


def draw(scores: Sequence[Score], path: Path) -> None:
    """Bars: good requests a second by policy, a panel for each kind of traffic."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(score.traffic for score in scores))
    figure = Figure(figsize=(4 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        chosen = [score for score in scores if score.traffic == name][::-1]
        places = range(len(chosen))
        axes.barh(places, [s.good for s in chosen], color="#1b6ca8", label="simulated")
        axes.plot([s.untold for s in chosen], places, "|", ms=12, color="#222222", label="untold")
        lived = [(i, s.good_live) for i, s in enumerate(chosen) if s.good_live is not None]
        if lived:
            axes.plot([g for _, g in lived], [i for i, _ in lived], "D", color="#c8553d",
                      label="live")  # fmt: skip
        axes.legend(loc="lower right", fontsize=8)
        axes.set_yticks(list(places), [s.policy for s in chosen])
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("good requests/s")
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_engine_options(parser)
    parser.add_argument("--trace", type=Path, help="take the lengths of conversations from it")
    parser.add_argument("--count", type=int, default=600, help="requests of a simulation")
    parser.add_argument("--minutes", type=float, default=0.5, help="of arrivals of a live run")
    parser.add_argument("--live", action="store_true", help="run conversations live, too")
    parser.add_argument("--page", type=Path, help="write the page here, its plot beside it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    talk = recorded(options.trace) if options.trace else conversation
    base = replace(config_of(options), max_context=MAX_CONTEXT)
    simulating = Board(base, options.count, None)
    living = Board(base, options.count, options.minutes) if options.live else simulating
    scores = []
    for i, kind in enumerate(kinds(talk)):
        for name, entry in ENTRIES.items():
            scores.append((living if i == 0 else simulating).score(name, entry, kind))
    about = (
        f"Simulated with the measured cost of `{base.model}` on one machine, {options.count}"
        " requests a run" + (f"; live: {options.minutes:g} minutes." if options.live else ".")
    )
    if options.page:
        plot = options.page.with_suffix(".svg")
        draw(scores, plot)
        options.page.write_text(page(scores, about, plot.name))
    else:
        print(page(scores, about, ""))
    if options.json:
        found: list[dict[str, Any]] = [asdict(score) for score in scores]
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
