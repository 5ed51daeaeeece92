"""Claim, Figure, Trial, Finding: what a paper says, what we measured, and what we make of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

REACHED = 0.8
"""Of a paper's figure: from here on it counts as reproduced."""


class Verdict(Enum):
    """What became of a claim; ``judge`` says when it is which."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT = "not reproduced"
    OPEN = "not judged"


@dataclass(frozen=True, slots=True)
class Claim:
    """``said`` gives the paper's figures and where they stand, ``baseline`` what they are against.

    ``short`` is the claim and ``expected`` its figure in a few words, for the table.
    """

    short: str
    paper: str
    said: str
    expected: str
    baseline: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number, once for each repeat: how many times better, or ``unit``.

    ``paper`` is what the claim asks for: at least that much, or with ``at_most`` at most. None: a
    figure that explains, on which no verdict depends.
    """

    what: str
    values: tuple[float, ...]
    paper: float | None = None
    at_most: bool = False
    unit: str = "x"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool:
        """The median is what the paper says, or near it; a bound holds in every repeat."""
        if self.paper is None:
            return True
        if self.at_most:
            return max(self.values) <= self.paper
        return self.median >= 1 + REACHED * (self.paper - 1)

    @property
    def better(self) -> bool:
        """In the claimed direction in every repeat, though perhaps by less."""
        return self.reached or (not self.at_most and min(self.values) > 1.0)

    def show(self) -> str:
        """The median, and the range over the repeats."""
        low, high = min(self.values), max(self.values)
        text = f"{self.median:.3g}{self.unit}"
        return text if len(self.values) == 1 else f"{text} ({low:.3g} to {high:.3g})"

    def show_paper(self) -> str:
        if self.paper is None:
            return ""
        return f"{'at most ' if self.at_most else ''}{self.paper:g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Trial:
    """Figures of one setting. ``where`` is live or simulated, with model and device."""

    where: str
    workload: str
    ours: str
    baseline: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a program found. ``why`` explains the verdict: what agrees, what does not and why."""

    name: str
    claim: Claim
    trials: tuple[Trial, ...]
    verdict: Verdict
    why: str
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict.value}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Finding:
        trials = tuple(
            Trial(
                trial["where"], trial["workload"], trial["ours"], trial["baseline"],
                tuple(Figure(**f | {"values": tuple(f["values"])}) for f in trial["figures"]),
            )
            for trial in found["trials"]
        )  # fmt: skip
        return cls(
            found["name"], Claim(**found["claim"]), trials, Verdict(found["verdict"]),
            found["why"], found["seconds"],
        )  # fmt: skip


def judge(trials: Sequence[Trial]) -> Verdict:
    """Reproduced: every figure that the paper states is reached; of one that several trials have,
    once is enough.

    A gain counts as reached from 80 % of the paper's gain on, a bound where it holds in every
    repeat. Partly: some are reached, or in one trial all stated figures are better than the
    baseline's in every repeat. Not judged: the trials that were run have no figure of the paper's.
    Not reproduced: otherwise.
    """
    stated = [[f for f in trial.figures if f.paper is not None] for trial in trials]
    reached: dict[str, bool] = {}
    for figure in (figure for figures in stated for figure in figures):
        reached[figure.what] = reached.get(figure.what, False) or figure.reached
    if not reached:
        return Verdict.OPEN
    if all(reached.values()):
        return Verdict.REPRODUCED
    if any(reached.values()) or any(fs and all(f.better for f in fs) for fs in stated):
        return Verdict.PARTLY
    return Verdict.NOT
