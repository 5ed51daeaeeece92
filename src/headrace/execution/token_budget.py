"""TokenBudget: how many tokens a step should compute, from a short measurement."""

from __future__ import annotations

import time
from dataclasses import dataclass

from headrace.execution.local import LocalExecutor
from headrace.nouns.errors import ConfigError
from headrace.nouns.request import Request
from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Slice, Step

ROWS = (16, 32, 64, 128, 256, 512, 1024)
SLICE = 256
KNEE = 0.9
SECONDS = 1.0  # measuring stops at the first size after this


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """``tokens`` a step, the reason, and what was measured: (rows, seconds a step)."""

    tokens: int
    reason: str
    points: tuple[tuple[int, float], ...]


def measure_token_budget(executor: LocalExecutor, tpot_target: float | None = None) -> TokenBudget:
    """Time prefill steps of growing size and take the knee of their tokens per second.

    The knee is the smallest size within 90 % of the best rate: larger steps make every running
    sequence wait longer and gain little. With a ``tpot_target`` (seconds) no size is taken whose
    step is longer. Uses cache blocks from the first on; to be called while nothing is running.
    """
    points: list[tuple[int, float]] = []
    begun = time.perf_counter()
    room = executor.cache.num_blocks * executor.cache.block_size
    for rows in ROWS:
        step = _step(rows, executor)
        if rows > room or (points and time.perf_counter() - begun > SECONDS):
            break
        seconds = _seconds(executor, step)
        if rows <= 64:  # short steps are noisy and cheap to repeat
            seconds = min(seconds, _seconds(executor, step), _seconds(executor, step))
        points.append((rows, seconds))
    if not points:
        return TokenBudget(max(1, room), f"the cache holds no more than {room} tokens", ())
    return choose_budget(tuple(points), tpot_target)


def choose_budget(
    points: tuple[tuple[int, float], ...], tpot_target: float | None = None
) -> TokenBudget:
    """The knee of measured (rows, seconds), held under the target. ``points`` is not empty."""
    best = max(rows / seconds for rows, seconds in points)
    knee = next(rows for rows, seconds in points if rows / seconds >= KNEE * best)
    rate = knee / dict(points)[knee]
    reason = (
        f"knee of tokens per second: {rate:.0f} at {knee} rows,"
        f" {best:.0f} at best up to {points[-1][0]}"
    )
    if tpot_target is None:
        return TokenBudget(knee, reason, points)
    fitting = [rows for rows, seconds in points if seconds <= tpot_target]
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
