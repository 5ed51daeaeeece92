"""The report of ``headrace plan``: a JSON object, a table and a plot made from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from headrace.cli.plan_candidate import Candidate
from headrace.cli.plan_search import PlanSearch
from headrace.cli.plan_trial import Trial
from headrace.cli.simulation_tables import percent, table_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

VERSION = 1
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8e6c8a", "#d4a03c", "#4a4e69", "#2a9d8f", "#999999")


def plan_json(
    search: PlanSearch, candidates: list[Candidate], best: Candidate | None
) -> dict[str, Any]:
    """The whole report. Durations are in seconds, prices in dollars per hour."""
    notes = list(dict.fromkeys(note for c in candidates for note in c.notes))
    engines = [c.engine for c in candidates if c.engine is not None]
    notes += list(dict.fromkeys(note for engine in engines for note in engine.notes))
    if any(c.engine is not None and c.engine.price is None for c in candidates):
        notes.append("where a price is not known, fewer instances count as cheaper")
    return {
        "headrace_plan": VERSION,
        "about": _about(search, candidates),
        "targets": search.targets.slo.to_json() | {"share": search.targets.share},
        "verdict": verdict(search, candidates, best),
        "best": None if best is None else candidates.index(best),
        "candidates": [_candidate_json(candidate) for candidate in candidates],
        "notes": notes,
    }


def _about(search: PlanSearch, candidates: list[Candidate]) -> dict[str, Any]:
    from headrace import __version__

    return {
        "model": candidates[0].config.model,
        "load": search.load.label,
        "rate": search.load.rate,
        "requests": search.load.count,
        "router": search.router,
        "seed": search.seed,
        "headrace": __version__,
    }


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    engine, least, best = candidate.engine, candidate.least, candidate.best
    return {
        "device": str(candidate.choice),
        "name": None if engine is None else engine.name,
        "policy": candidate.policy,
        "dollars_per_hour_each": None if math.isinf(candidate.each) else candidate.each,
        "at_least": None if least is None else least.count,
        "instances": candidate.count,
        "dollars_per_hour": candidate.price,
        "trial": None if best is None else candidate.trials.index(best),
        "binds": candidate.binds or None,
        "left_out": candidate.left_out or None,
        "trials": [trial.to_json() for trial in candidate.trials],
    }


def verdict(search: PlanSearch, candidates: list[Candidate], best: Candidate | None) -> str:
    """One sentence: what to take, or what came nearest and what kept it from the targets."""
    if best is not None:
        trial, price = best.best, best.price
        assert trial is not None
        cost = "" if price is None else f" for {price:.2f} dollars an hour"
        return (
            f"{best.count} x {best.choice}{cost} ({best.policy} policies,"
            f" {trial.setting}): {inside(trial)} of the requests are inside;"
            f" {sure(trial, search.targets.share)}"
        )
    whole = [(c, trial) for c in candidates for trial in c.trials if trial.whole]
    if not whole:
        reasons = "; ".join(f"{c.choice}: {c.left_out}" for c in candidates)
        return f"nothing offered can meet {search.targets}: {reasons}"
    candidate, trial = max(whole, key=lambda pair: pair[1].inside)
    return (
        f"nothing offered meets {search.targets}; the nearest is {trial.count} x"
        f" {candidate.choice} ({candidate.policy} policies) with {inside(trial)} inside: what binds"
        f" is {trial.binds}. Offer more or faster devices, or wider targets"
    )


def inside(trial: Trial) -> str:
    """The share inside, with the half-width of its confidence interval where it is known."""
    return percent(trial.inside) + (f" ± {100 * trial.margin:.1f}" if trial.margin < 1 else "")


def sure(trial: Trial, share: float) -> str:
    """How sure it is that the targets are met by requests like these."""
    if trial.margin >= 1:
        return "too few requests to say how sure that is"
    if trial.inside - trial.margin >= share:
        return "sure, as far as this load and the step times go"
    return "not sure: the target lies within the margin; try more requests or another seed"


def console_report(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(found, indent=1))
        return
    from rich.console import Console

    from headrace.workloads.report import WIDTH

    console = Console()
    console.width = max(console.width, WIDTH)
    about = found["about"]
    console.print(f"[bold]{about['model']}, {about['load']}, {about['requests']} requests[/bold]",
                  highlight=False)  # fmt: skip
    console.print(_table(found), highlight=False)
    if found["best"] is not None:
        console.print(f"cheapest: {found['verdict']}", highlight=False)
    for candidate in found["candidates"]:
        if candidate["left_out"]:
            console.print(f"{candidate['device']}: {candidate['left_out']}", highlight=False)
    for note in found["notes"]:
        console.print(f"note: {note}", highlight=False)


def _table(found: dict[str, Any]) -> Table:
    columns = ["device", "instances", "policy", "$/hour", "inside", "goodput\nreq/s",
               "TTFT\np99 ms", "TPOT\np99 ms", "busy", "what binds"]  # fmt: skip
    rows = []
    for candidate in found["candidates"]:
        of = candidate["trial"]
        rows.append(_row(candidate, None if of is None else candidate["trials"][of]))
    if len({candidate["policy"] for candidate in found["candidates"]}) == 1:
        place = columns.index("policy")
        for row in (columns, *rows):
            del row[place]
    share = 100 * found["targets"]["share"]
    table = table_of(f"candidates ({share:g} % have to be inside)", columns)
    for index, row in enumerate(rows):
        table.add_row(*row, style="bold" if index == found["best"] else None)
    return table


def _row(candidate: dict[str, Any], trial: dict[str, Any] | None) -> list[str]:
    if trial is None:
        return [candidate["device"], "untried", candidate["policy"], *["-"] * 7]
    price = candidate["dollars_per_hour_each"]
    met = candidate["instances"] is not None
    return [
        candidate["device"],
        f"{trial['instances']}" if met else f"not {trial['instances']}",
        candidate["policy"],
        "-" if price is None else f"{price * trial['instances']:.2f}",
        ("" if trial["whole"] else "~") + percent(trial["inside"]),
        f"{trial['goodput']:.2f}",
        _ms(trial["ttft_p99"]),
        _ms(trial["tpot_p99"]),
        f"{100 * trial['busy_share']:.0f} %",
        candidate["binds"] or "-",
    ]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:,.0f}"


def write_plan_plot(found: dict[str, Any], path: Path) -> None:
    """Draws the share inside and the price against the number of instances. ConfigError."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from headrace.workloads.plots import save

    about = found["about"]
    title = f"headrace plan: {about['model']}, {about['load']}"
    drawn = Figure(figsize=(12, 4.8), layout="constrained")
    drawn.suptitle(title)
    left, right = drawn.subplots(1, 2)
    for number, candidate in enumerate(found["candidates"]):
        _draw(left, right, candidate, COLOURS[number % len(COLOURS)])
    share = found["targets"]["share"]
    for axes in (left, right):
        axes.axhline(share, color="#888888", ls=":", label=f"target {100 * share:g} %")
        axes.set(ylabel="share of requests inside", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    left.set(xlabel="instances")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="dollars an hour")
    save(drawn, title, {k: v for k, v in found.items() if k != "headrace_plan"}, path)


def _draw(left: Axes, right: Axes, candidate: dict[str, Any], colour: str) -> None:
    best: dict[int, float] = {}  # of several token budgets
    for trial in candidate["trials"]:
        count = trial["instances"]
        best[count] = max(best.get(count, 0.0), trial["inside"])
    if not best:
        return
    counts, shares = zip(*sorted(best.items()), strict=True)
    label = f"{candidate['device']}, {candidate['policy']}"
    left.plot(counts, shares, "o-", ms=4, color=colour, label=label)
    price = candidate["dollars_per_hour_each"]
    if price is not None:
        right.plot([price * n for n in counts], shares, "o-", ms=4, color=colour, label=label)
