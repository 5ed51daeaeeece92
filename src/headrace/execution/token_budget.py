"""TokenBudget: how many tokens a step should compute, from a short measurement."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

from headrace.execution.local import LocalExecutor
from headrace.execution.tuning import Tuning
from headrace.nouns.errors import ConfigError
from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Slice, Step

ROWS = (16, 32, 64, 128, 256, 512, 1024)
SLICE = 256
KNEE = 0.9
SECONDS = 1.0  # of measuring; sizes not reached by then are left out
PASSES = 6  # over all sizes, so that a disturbance hits no size alone
PASS_ROWS = 256  # small sizes are repeated up to so many rows in each pass
STEADY = 0.15  # two best times of a size that lie further apart were disturbed

Points = tuple[tuple[int, float], ...]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """``tokens`` a step, the reason, and what was measured: (rows, seconds a step)."""

    tokens: int
    reason: str
    points: Points


def find_token_budget(
    executor: LocalExecutor, tpot_target: float | None, tuning: Tuning, settings: str
) -> TokenBudget:
    """The token budget from an earlier start's measurement, or else from one taken now.

    ``settings`` names what besides the tuning's machine and model the time of a step depends on.
    A measurement that other programs disturbed, or that time did not suffice for, is used, but not
    kept. Raises as measure_token_budget.
    """
    sizes = _sizes(executor)
    length = min(SLICE, executor.transformer.max_context)
    name = f"seconds a step: {settings}, up to {max(sizes, default=0)} rows in slices of {length}"
    known = _points(tuning.get(name), sizes)
    if known:
        _seconds(executor, _step(known[0][0], executor))  # does the model run at all?
        executor.cache.drop()
        found = choose_budget(known, tpot_target)
        return TokenBudget(found.tokens, f"{found.reason}; measured at an earlier start", known)
    times = _measure(executor, sizes)
    if times and _complete(times, sizes) and _steady(times):
        tuning.put(name, [list(point) for point in _least(times)])
    elif times:
        log.info("step times vary or are too few, for this start they do, but are not kept")
    return _choose(executor, times, tpot_target)


def measure_token_budget(executor: LocalExecutor, tpot_target: float | None = None) -> TokenBudget:
    """Time prefill steps of growing size and take the knee of their tokens per second.

    The knee is the smallest size within 90 % of the best rate: larger steps make every running
    sequence wait longer and gain little. With a ``tpot_target`` (seconds) no size is taken whose
    step is longer. To be called while nothing is running and the cache holds nothing.
    Raises ConfigError where the model cannot run.
    """
    return _choose(executor, _measure(executor, _sizes(executor)), tpot_target)


def choose_budget(points: Points, tpot_target: float | None = None) -> TokenBudget:
    """The knee of measured (rows, seconds), held under the target. ``points`` is not empty.

    Sizes ascend. A time that is longer than a larger step's was disturbed: the larger one's counts.
    """
    smoothed = _monotone(points)
    best = max(rows / seconds for rows, seconds in smoothed)
    knee = next(rows for rows, seconds in smoothed if rows / seconds >= KNEE * best)
    rate = knee / dict(smoothed)[knee]
    reason = (
        f"knee of tokens per second: {rate:.0f} at {knee} rows,"
        f" {best:.0f} at best up to {points[-1][0]}"
    )
    if tpot_target is None:
        return TokenBudget(knee, reason, points)
    fitting = [rows for rows, seconds in smoothed if seconds <= tpot_target]
    if not fitting:
        reason = f"TPOT target {tpot_target:g} s cannot be met: {points[0][0]} rows take longer"
        return TokenBudget(points[0][0], reason, points)
    if fitting[-1] >= knee:
        return TokenBudget(
            knee, reason + f"; its step is within the TPOT target {tpot_target:g} s", points
        )
    return TokenBudget(
        fitting[-1], f"largest step within the TPOT target {tpot_target:g} s; {reason}", points
    )


def _choose(
    executor: LocalExecutor, times: dict[int, list[float]], tpot_target: float | None
) -> TokenBudget:
    if not times:
        room = _room(executor)
        return TokenBudget(max(1, room), f"the cache holds no more than {room} tokens", ())
    return choose_budget(_least(times), tpot_target)


def _monotone(points: Points) -> Points:
    """No step takes longer than a larger one."""
    least, smoothed = math.inf, []
    for rows, seconds in reversed(points):
        least = min(least, seconds)
        smoothed.append((rows, least))
    return tuple(reversed(smoothed))


def _measure(executor: LocalExecutor, sizes: tuple[int, ...]) -> dict[int, list[float]]:
    """Seconds of each size's steps; leaves the cache empty."""
    times = _times(executor, sizes) if sizes else {}
    executor.cache.drop()
    return times


def _times(executor: LocalExecutor, sizes: tuple[int, ...]) -> dict[int, list[float]]:
    """All sizes once, as far as time allows, then again and again."""
    times: dict[int, list[float]] = {}
    steps = {rows: _step(rows, executor) for rows in sizes}
    _seconds(executor, steps[sizes[0]])  # wakes the threads, takes the memory that stays
    begun = time.perf_counter()
    for turn in range(PASSES):
        for rows in sizes:
            if turn and rows not in times:
                continue
            for _ in range(max(1, PASS_ROWS // rows) if turn else 1):
                if times and time.perf_counter() - begun > SECONDS:
                    return times
                times.setdefault(rows, []).append(_seconds(executor, steps[rows]))
    return times


def _complete(times: dict[int, list[float]], sizes: tuple[int, ...]) -> bool:
    """Whether all sizes were timed, or enough to see the rate level off."""
    return len(times) == len(sizes) or choose_budget(_least(times)).tokens < max(times)


def _least(times: dict[int, list[float]]) -> Points:
    return tuple((rows, min(found)) for rows, found in times.items())


def _steady(times: dict[int, list[float]]) -> bool:
    """Whether the two best times of every size that was timed twice are close."""
    pairs = [sorted(found)[:2] for found in times.values() if len(found) > 1]
    return all(second <= (1 + STEADY) * first for first, second in pairs)


def _points(value: Any, sizes: tuple[int, ...]) -> Points:
    """What was kept, if it has the form of a measurement of the first few of ``sizes``; else ()."""
    if not isinstance(value, list) or not value:
        return ()
    points: list[tuple[int, float]] = []
    for entry, rows in zip(value, sizes, strict=False):
        if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == rows):
            return ()
        seconds = entry[1]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            return ()
        if not 0 < seconds < math.inf:
            return ()
        points.append((rows, float(seconds)))
    return tuple(points) if len(points) == len(value) else ()


def _room(executor: LocalExecutor) -> int:
    """Tokens that the cache holds."""
    return executor.cache.num_blocks * executor.cache.block_size


def _sizes(executor: LocalExecutor) -> tuple[int, ...]:
    """Sizes of steps that the cache has room for."""
    return tuple(rows for rows in ROWS if rows <= _room(executor))


def _step(rows: int, executor: LocalExecutor) -> Step:
    """Prefill of ``rows`` tokens, in sequences of at most ``SLICE`` tokens."""
    size, vocab = executor.cache.block_size, executor.transformer.config.vocab_size
    length = min(SLICE, executor.transformer.max_context)
    slices, block = [], 0
    for first in range(0, rows, length):
        count = min(length, rows - first)
        prompt = tuple((first + i) * 7919 % vocab for i in range(count))
        sequence = Sequence.of(Request(id="measurement", prompt=prompt, max_tokens=1), 0)
        needed = -(-count // size)
        sequence.blocks = list(range(block, block + needed))
        block += needed
        slices.append(Slice(sequence, 0, count, samples=False))
    return Step(0, tuple(slices))


def _seconds(executor: LocalExecutor, step: Step) -> float:
    executor.submit(step)
    result = executor.collect()
    if result.error is not None:
        raise ConfigError(f"the model cannot run on this machine: {result.error}")
    return result.elapsed
