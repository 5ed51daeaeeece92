"""Profile: where the time of steps goes, by operator, as sums and span by span."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from headrace.nouns.step import Work

Span = tuple[str, int, int, int]
"""An operator, its layer, and when it began and ended, in nanoseconds of the monotonic clock."""

NO_LAYER = -1
SPANS_KEPT = 100_000  # enough for a trace of hundreds of steps; some 10 MB as a file


@dataclass(frozen=True, slots=True)
class TracedStep:
    """A step with the spans of its operators, in the order in which they ran.

    ``start`` and ``end`` are of the step's computation, in nanoseconds as the spans'; ``layout``
    is the span in which it was laid out, which may lie in an earlier step.
    """

    id: int
    rows: int
    slices: int
    start: int
    end: int
    layout: Span
    spans: tuple[Span, ...]
    work: Work | None


@dataclass(slots=True)
class Profile:
    """Seconds and calls by operator, summed over ``steps`` steps of ``rows`` rows in total.

    ``seconds`` also has ``layout`` and ``sampling``; what is left of ``elapsed`` is ``other``.
    ``limit`` is the least time in which this machine could have run the steps, 0 when that is not
    known. ``traced`` are the first steps in detail, as many as ``SPANS_KEPT`` spans make.
    """

    steps: int = 0
    rows: int = 0
    elapsed: float = 0.0
    limit: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    traced: list[TracedStep] = field(default_factory=list)
    _open: list[Span] = field(default_factory=list)
    _kept: int = 0

    def book(self, name: str, start: int, end: int, layer: int = NO_LAYER) -> None:
        """Add a call of an operator to the step that is running."""
        self._open.append((name, layer, start, end))

    def book_spans(self, spans: Iterable[Span]) -> None:
        """Add calls of operators to the step that is running."""
        self._open.extend(spans)

    def end_step(
        self, id: int, rows: int, slices: int, start: int, end: int, layout: Span, work: Work | None
    ) -> None:
        """The step that was running has ended; see TracedStep."""
        spans, self._open = tuple(self._open), []
        self.steps += 1
        self.rows += rows
        for name, _, begun, ended in (layout, *spans):
            self.seconds[name] = self.seconds.get(name, 0.0) + (ended - begun) * 1e-9
            self.calls[name] = self.calls.get(name, 0) + 1
        self.elapsed += (end - start + layout[3] - layout[2]) * 1e-9
        self.limit += work.seconds if work is not None else 0.0
        if self._kept + len(spans) <= SPANS_KEPT:
            self._kept += len(spans)
            self.traced.append(TracedStep(id, rows, slices, start, end, layout, spans, work))

    def table(self) -> list[tuple[str, float, float, int]]:
        """(operator, milliseconds a step, share of the step, calls a step), largest first."""
        steps, total = max(self.steps, 1), max(self.elapsed, 1e-9)
        entries = [
            (name, 1e3 * seconds / steps, seconds / total, round(self.calls[name] / steps))
            for name, seconds in self.seconds.items()
        ]
        rest = self.elapsed - sum(self.seconds.values())
        entries.append(("other", 1e3 * rest / steps, rest / total, 0))
        return sorted(entries, key=lambda entry: -entry[1])
