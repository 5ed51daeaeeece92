"""StepLoad and StepCost: what a step's time depends on, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from headrace.nouns.step import Slice, Step


class StepLoad(NamedTuple):
    """Counts over a step, all whole numbers.

    ``rows`` are computed for somebody, ``padding`` rows for nobody. ``slices`` of them ``decodes``
    are one row long; ``samples`` choose a token. A row at position p sees p + 1 positions:
    ``pairs`` counts these over all rows, ``decode_pairs`` over slices of one row, ``sample_pairs``
    over rows that sample. ``read`` are the tokens whose state was computed before this step.
    """

    rows: int = 0
    padding: int = 0
    slices: int = 0
    decodes: int = 0
    samples: int = 0
    pairs: int = 0
    decode_pairs: int = 0
    sample_pairs: int = 0
    read: int = 0

    @property
    def prefill(self) -> int:
        """Rows in slices of more than one."""
        return self.rows - self.decodes

    @property
    def prefill_pairs(self) -> int:
        """Pairs in slices of more than one row."""
        return self.pairs - self.decode_pairs

    @classmethod
    def of(cls, step: Step) -> StepLoad:
        """The counts of a step."""
        return cls.sum(step.slices, step.padding, step.steady, step.steady_pairs)

    @classmethod
    def sum(
        cls, slices: Iterable[Slice], padding: int = 0, steady: int = 0, steady_pairs: int = 0
    ) -> StepLoad:
        """The counts of slices that are computed together, and of steady decodes beside them."""
        rows = count = decodes = samples = steady
        pairs = decode_pairs = sample_pairs = steady_pairs
        read = steady_pairs - steady
        for slice in slices:
            start, length = slice.start, slice.length
            seen = length * (2 * start + length + 1) // 2
            rows += length
            count += 1
            pairs += seen
            read += start
            if length == 1:
                decodes += 1
                decode_pairs += seen
            if slice.samples:
                samples += 1
                sample_pairs += start + length
        return cls(rows, padding, count, decodes, samples, pairs, decode_pairs, sample_pairs, read)

    def __add__(self, other: StepLoad) -> StepLoad:  # type: ignore[override]
        return StepLoad(
            self.rows + other.rows,
            self.padding + other.padding,
            self.slices + other.slices,
            self.decodes + other.decodes,
            self.samples + other.samples,
            self.pairs + other.pairs,
            self.decode_pairs + other.decode_pairs,
            self.sample_pairs + other.sample_pairs,
            self.read + other.read,
        )


class StepCost(Protocol):
    """A prediction of step times: seconds from one step's plan to the next one's.

    A pure function of the load, so that live policies and the simulator agree.
    """

    def seconds(self, load: StepLoad) -> float: ...
