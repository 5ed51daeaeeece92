"""What the programs have in common: options, and the page that a finding fills."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from benchmarks.papers.claim import Finding
from headrace.engine.config import DEFAULT_MODEL

REPEATS = 3


@dataclass(frozen=True, slots=True)
class Options:
    """``quick`` asks for tiny sizes, ``live`` and ``simulated`` for the trials of that kind.

    ``seeds`` are those of the repeats.
    """

    quick: bool = False
    live: bool = True
    simulated: bool = True
    repeats: int = REPEATS
    model: str = DEFAULT_MODEL
    seed: int = 0

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + (1 if self.quick else self.repeats))

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


Run = Callable[[Options], Finding]


def main(run: Run, about: str) -> None:
    """The command line of one program."""
    parser = argparse.ArgumentParser(description=about.split("\n", 1)[0])
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    found = parser.parse_args()
    finding = timed(run, options_of(found))
    print(json.dumps(finding.to_json()) if found.json else "\n".join(describe(finding)))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--only", choices=("live", "simulated"), help="leave out the other kind")
    parser.add_argument("--repeat", type=int, default=REPEATS, help="seeds, or interleaved pairs")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="of the live trials")
    parser.add_argument("--seed", type=int, default=0)


def options_of(found: argparse.Namespace) -> Options:
    return Options(
        quick=found.quick,
        live=found.only != "simulated",
        simulated=found.only != "live",
        repeats=found.repeat,
        model=found.model,
        seed=found.seed,
    )


def timed(run: Run, options: Options) -> Finding:
    """The finding with the seconds that it took."""
    start = time.perf_counter()
    finding = run(options)
    return replace(finding, seconds=round(time.perf_counter() - start, 1))


def describe(finding: Finding) -> list[str]:
    """A section of the page, in Markdown."""
    claim = finding.claim
    lines = [
        f"## {claim.short}",
        "",
        f"{claim.paper}. {claim.said} Baseline there: {claim.baseline}",
        "",
        f"**{finding.verdict.value.capitalize()}.** {finding.why}",
        "",
    ]
    for trial in finding.trials:
        lines += [
            f"{trial.where}. Workload: {trial.workload}. Ours: {trial.ours}."
            f" Baseline: {trial.baseline}.",
            "",
            "| figure | paper | median (range over repeats) |",
            "|---|---|---|",
            *(f"| {f.what} | {f.show_paper()} | {f.show()} |" for f in trial.figures),
            "",
        ]
    return [*lines, f"`python -m benchmarks.papers.{finding.name}`, {finding.seconds:.0f} s"]


def page(findings: Iterable[Finding]) -> str:
    """The whole page: a table of verdicts, then a section for each claim."""
    findings = list(findings)
    lines = [
        "# The literature, reproduced",
        "",
        "Written by `python -m benchmarks.papers`; do not edit by hand. Each row is a program in"
        " `benchmarks/papers/`. A ratio is how many times better Headrace's policy is than the"
        " baseline policy on the same engine, so that only the idea differs, not the code around"
        " it. Reproduced: every figure that the paper states is reached (a gain from 80 % of the"
        " paper's gain on, a bound in every repeat; of several trials one is enough). Partly: some"
        " are, or all are better than the baseline's in every repeat, but by less. Simulated trials"
        " run the engine's own scheduler on a virtual clock, with an analytic model of the paper's"
        " hardware. Where a text speaks of a live trial that is not listed, it was seen on a busy"
        " machine only; the program runs it.",
        "",
        "| claim | paper | ours | verdict |",
        "|---|---|---|---|",
    ]
    for finding in findings:
        ours = "; ".join(
            f"{f.show()} {trial.where.split(' ', 1)[0].lower().rstrip(',:')}"
            for trial in finding.trials
            for f in trial.figures
            if f.paper is not None
        )
        claim = finding.claim
        lines.append(f"| {claim.short} | {claim.expected} | {ours} | {finding.verdict.value} |")
    for finding in findings:
        lines += ["", *describe(finding)]
    return "\n".join(lines) + "\n"
