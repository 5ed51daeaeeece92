"""Ask and Answer: what the programs send, to live and simulated engines alike, and what comes back.

Length generators follow the statistics that the papers state; all are seeded.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

Rng = np.random.Generator
Length = Callable[[Rng], int]
MOST = 1000
NORMAL_P90 = 1.2815515655446004  # standard deviations


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: due ``at`` seconds, with ``output`` tokens until its end token.

    ``max_tokens`` is what the scheduler is told (0: the output itself). The first ``shared``
    tokens of the prompt are the same in all asks of a ``group``. A front end holds it back for
    ``held`` seconds; latencies count from when it was due.
    """

    at: float
    prompt: int
    output: int
    max_tokens: int = 0
    tenant: str = "default"
    group: str = ""
    shared: int = 0
    held: float = 0.0
    priority: int = 0

    @property
    def bound(self) -> int:
        return self.max_tokens or self.output


@dataclass(slots=True)
class Answer:
    """``times`` are those of the output tokens, in seconds on the clock of ``Ask.at``.

    ``admitted`` is when it first started; only simulated engines tell.
    """

    ask: Ask
    admitted: float = 0.0
    times: array[float] = field(default_factory=lambda: array("d"))
    cached: int = 0
    preemptions: int = 0
    error: str | None = None

    @property
    def ttft(self) -> float:
        return self.times[0] - self.ask.at

    @property
    def e2e(self) -> float:
        return self.times[-1] - self.ask.at

    @property
    def tpot(self) -> float:
        """Mean seconds between its tokens; 0 where there is but one."""
        return (self.times[-1] - self.times[0]) / max(1, len(self.times) - 1)

    @property
    def per_token(self) -> float:
        """End-to-end seconds over output tokens (Orca's normalized latency)."""
        return self.e2e / len(self.times)

    @property
    def gaps(self) -> np.ndarray:
        return np.diff(np.frombuffer(self.times, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Ran:
    """All answers of a run. ``steps`` were computed, ``padding`` rows of them for nobody."""

    answers: Sequence[Answer]
    steps: int = 0
    padding: int = 0

    @property
    def done(self) -> list[Answer]:
        return [a for a in self.answers if a.error is None and len(a.times)]

    @property
    def seconds(self) -> float:
        """From the first ask to the last token."""
        return max(a.times[-1] for a in self.done) - min(a.ask.at for a in self.answers)

    @property
    def tokens_per_second(self) -> float:
        """Output tokens."""
        return sum(len(a.times) for a in self.done) / self.seconds

    @property
    def preemptions(self) -> int:
        return sum(a.preemptions for a in self.answers)

    @property
    def gaps(self) -> np.ndarray:
        """Every time between two tokens of a sequence."""
        return np.concatenate([a.gaps for a in self.done] or [np.zeros(1)])

    def goodput(self, good: Callable[[Answer], bool]) -> float:
        """Good requests a second."""
        return sum(map(good, self.done)) / self.seconds

    def settled(self, skip: float = 0.1) -> list[Answer]:
        """The answers without the first and last tenth of the asks: the system neither fills
        nor drains."""
        count = len(self.answers)
        kept = self.answers[int(skip * count) : count - int(skip * count)] or self.answers
        return [a for a in kept if a.error is None and len(a.times)]


def fixed(tokens: int) -> Length:
    return lambda rng: tokens


def uniform(low: int, high: int) -> Length:
    """Both ends included."""
    return lambda rng: int(rng.integers(low, high + 1))


def normal(mean: float, variation: float, low: int = 1) -> Length:
    """A standard deviation of ``variation`` times the mean."""
    return lambda rng: max(low, round(float(rng.normal(mean, variation * mean))))


def lognormal(median: float, p90: float, high: int, low: int = 4) -> Length:
    """Of the stated median and 90th percentile, cut to [low, high]."""
    sigma = math.log(p90 / median) / NORMAL_P90
    return lambda rng: int(np.clip(rng.lognormal(math.log(median), sigma), low, high))


def zipf(low: int, high: int, theta: float) -> Length:
    """Length n with probability proportional to n ** -theta."""
    values = np.arange(low, high + 1)
    weights = values**-theta
    cumulated = np.cumsum(weights / weights.sum())
    return lambda rng: int(values[min(int(np.searchsorted(cumulated, rng.random())), high - low)])


def make(
    count: int, prompt: Length, output: Length, *, seed: int, rate: float | None = None,
    context: int | None = None, max_tokens: int = 0,
) -> list[Ask]:  # fmt: skip
    """``count`` asks, Poisson at ``rate`` a second or (None) all at once.

    With a ``context`` prompts are cut so that the output fits. Lengths and the pattern of gaps
    depend on the seed alone, so that two rates differ in their clock only.
    """
    rng = np.random.default_rng([seed, 0x9A])
    gaps = np.random.default_rng([seed, 0x9B])
    asks, now = [], 0.0
    for _ in range(count):
        tokens, out = prompt(rng), output(rng)
        if context is not None:
            out = min(out, context - 1)
            tokens = min(tokens, context - max(out, max_tokens))
        asks.append(Ask(now, max(1, tokens), out, max_tokens))
        if rate is not None:
            now += float(gaps.exponential(1.0 / rate))
    return asks


def windowed(asks: Iterable[Ask], window: float, size: int) -> list[Ask]:
    """Dynamic batching: a front end gathers asks until ``size`` wait or the first has for
    ``window`` seconds, and then sends them on together."""
    held: list[Ask] = []
    batch: list[Ask] = []
    for ask in asks:
        if batch and (len(batch) == size or ask.at > batch[0].at + window):
            held += _release(batch, size, window)
            batch = []
        batch.append(ask)
    return held + _release(batch, size, window)


def _release(batch: list[Ask], size: int, window: float) -> list[Ask]:
    if not batch:
        return []
    at = batch[-1].at if len(batch) == size else batch[0].at + window
    return [replace(ask, held=at - ask.at) for ask in batch]


def highest(holds: Callable[[float], bool], start: float, *, precision: float = 0.05) -> float:
    """The highest rate (within ``precision``, relatively) at which ``holds`` is true.

    Doubles or halves from ``start``, then bisects. 0 where it does not even hold at ``start`` over
    ``MOST``; a rate beyond ``MOST`` times ``start`` is not looked beyond.
    """
    low = high = start
    if holds(start):
        while holds(high := 2 * low):
            low = high
            if low > MOST * start:
                return low
    else:
        while not holds(low := high / 2):
            high = low
            if low < start / MOST:
                return 0.0
    while high / low > 1 + precision:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
