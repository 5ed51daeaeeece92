"""A pipeline of stages with one micro-batch of sequences each, in the time that a cost model gives.

The engine has no pipeline yet, so this is a small model of one: each of ``stages`` micro-batches
has ``seats`` for sequences; its next iteration can enter the first stage when its last one has
left the last stage (each token depends on the one before), and a stage takes iterations in the
order in which they came. Where an iteration finds a stage idle, the idle time is a bubble.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from benchmarks.papers.load import Ask
from headrace.nouns.step_cost import StepLoad


@dataclass(slots=True)
class Seat:
    """A request under way: ``computed`` tokens of its prompt, ``won`` of its output."""

    index: int
    ask: Ask
    computed: int = 0
    won: int = 0


@dataclass(frozen=True, slots=True)
class Piped:
    """``seconds`` until the last request was done, ``bubbles`` of each request: the idle time,
    averaged over the stages, before the iterations that it took part in. ``idle`` is the share of
    the stages' time that they did nothing in."""

    seconds: float
    bubbles: tuple[float, ...]
    idle: float


@dataclass(slots=True)
class Pipeline:
    """``chunk`` is the most tokens of an iteration; None computes prompts whole, beside decodes."""

    stage_seconds: Callable[[StepLoad], float]
    stages: int
    seats: int
    chunk: int | None
    _free: list[float] = field(default_factory=list)

    def run(self, asks: Sequence[Ask]) -> Piped:
        """All asks wait from the beginning."""
        self._free = [0.0] * self.stages
        bubbles = [0.0] * len(asks)
        batches: list[list[Seat]] = [[] for _ in range(self.stages)]
        ready = [(0.0, number) for number in range(self.stages)]
        position, end, busy = 0, 0.0, 0.0
        while ready:
            now, number = heappop(ready)
            batch = batches[number]
            while len(batch) < self.seats and position < len(asks):
                batch.append(Seat(position, asks[position]))
                position += 1
            load, part = self._iteration(batch)
            if not part:
                continue
            seconds = self.stage_seconds(load)
            idle, end = self._pass(now, seconds)
            busy += seconds
            for seat in part:
                bubbles[seat.index] += idle
            batches[number] = [seat for seat in batch if seat.won < seat.ask.output]
            heappush(ready, (end, number))
        total = max(self._free)
        return Piped(total, tuple(bubbles), 1 - busy / total)

    def _iteration(self, batch: list[Seat]) -> tuple[StepLoad, list[Seat]]:
        """What a micro-batch computes next, and who takes part; books it on the seats."""
        load, part = StepLoad(), []
        for seat in batch:
            if seat.computed >= seat.ask.prompt:
                load += slice_load(seat.ask.prompt + seat.won - 1, 1, True)
                seat.won += 1
                part.append(seat)
        for seat in batch:
            left = seat.ask.prompt - seat.computed
            room = left if self.chunk is None else self.chunk - load.rows
            if seat.won or left <= 0 or room <= 0:
                continue
            length = min(left, room)
            load += slice_load(seat.computed, length, length == left)
            seat.computed += length
            seat.won += length == left
            part.append(seat)
        return load, part

    def _pass(self, now: float, seconds: float) -> tuple[float, float]:
        """Sends an iteration through the stages; mean idle time before it, and when it is out."""
        idle = 0.0
        for stage, free in enumerate(self._free):
            start = max(now, free)
            idle += start - free
            now = self._free[stage] = start + seconds
        return idle / self.stages, now


def slice_load(start: int, length: int, samples: bool) -> StepLoad:
    """The load of ``length`` tokens after ``start`` known ones."""
    pairs = length * (2 * start + length + 1) // 2
    decode = length == 1
    return StepLoad(
        rows=length,
        slices=1,
        decodes=int(decode),
        samples=int(samples),
        pairs=pairs,
        decode_pairs=pairs if decode else 0,
        sample_pairs=start + length if samples else 0,
        read=start,
    )
