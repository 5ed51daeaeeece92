"""Future: admission by the memory that everybody is going to need until they end."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, count
from math import ceil
from operator import add, mul

from headrace.nouns.errors import ConfigError
from headrace.nouns.sequence import Sequence
from headrace.scheduling.forecast import Forecast
from headrace.scheduling.output_lengths import OutputLengths
from headrace.scheduling.policy import MemoryView, Surroundings

SAMPLES = 8
CONFIDENCE = 0.9


class Future:
    """Admits what fits at every moment until everybody has ended, as far as can be foreseen.

    Past-Future (arXiv:2507.10150, section 4): each sequence's output length is drawn from the
    lengths observed, given what it has produced already; with those of the running sequences and
    the candidate, memory use peaks right before one of them ends. Differences from the paper:

    - Not one forecast but ``samples`` independent ones; the peak has to fit in at least
      ``confidence`` of them, which takes the place of a share of memory kept in reserve.
    - A draw stands until the sequence outlives it, and only then is a longer one drawn. That is
      distributed like drawing anew for every step, but who was refused does not get in by being
      asked often enough. So a refusal stands until somebody starts, ends or yields, or until
      starting later makes as much of a difference as is needed.
    - A sequence that can only end at its ``max_tokens`` is known to; see ``OutputLengths`` for the
      others and for what is assumed without history.
    - Use is counted in blocks, those of shared prefixes once and as held to the last.

    Time is counted in steps in which everybody decodes a token; prompts that are not computed yet
    delay their sequences by as many steps as all of them take.
    """

    def __init__(
        self,
        samples: int = SAMPLES,
        confidence: float = CONFIDENCE,
        lengths: OutputLengths | None = None,
    ) -> None:
        if samples < 1:
            raise ConfigError(f"samples is {samples}; it must be at least 1")
        if not 0 < confidence <= 1:
            raise ConfigError(f"confidence is {confidence}; it must be above 0 and at most 1")
        self.lengths = lengths or OutputLengths()
        self._samples = samples
        self._needed = ceil(confidence * samples - 1e-9)
        self._forecasts: dict[Sequence, Forecast] = {}
        self._paths = list(range(samples))  # the one that was tightest last comes first
        self._budget = 1
        self._refused: Sequence | None = None
        self._reason = ""
        self._pilot: Sequence | None = None  # the refusal stands until it has ``_until`` tokens
        self._until = 0

    # What the scheduler tells

    def bind(self, surroundings: Surroundings) -> None:
        self._budget = surroundings.limits.token_budget

    def admitted(self, seq: Sequence, found: int, now: float) -> None:
        self._refused = None

    def preempted(self, seq: Sequence, lost: int, now: float) -> None:
        self._refused = None

    def ended(self, seq: Sequence, now: float) -> None:
        self._refused = None
        self._forecasts.pop(seq, None)
        self.lengths.observe(seq)

    # Admission

    def refusal(self, seq: Sequence, running: list[Sequence], memory: MemoryView) -> str | None:
        if not running:
            return None
        if seq is self._refused and self._pilot and len(self._pilot.tokens) < self._until:
            return self._reason
        reason = self._foresee(seq, running, memory)
        self._refused = None if reason is None else seq
        self._reason = reason or ""
        return reason

    def _foresee(self, seq: Sequence, running: list[Sequence], memory: MemoryView) -> str | None:
        """Why ``seq`` may not start, or None if it fits in enough forecasts."""
        forecasts = [self._forecast(other) for other in (*running, seq)]
        lens = [len(forecast.seq.tokens) for forecast in forecasts]
        shared, common = self._shares(seq, running, memory)
        size, free = memory.block_size, memory.total - common
        # Whoever has n tokens needs blocks for n - 1 in the step that gives it the last of them.
        need = sum(
            (forecast.longest + size - 2) // size - common_with
            for forecast, common_with in zip(forecasts, shared, strict=True)
        )
        if need <= free:  # even if nobody ended
            return None
        delay = self._delay(running, seq)
        late = [delay * (other.uncomputed > 1) for other in running] + [delay]
        # After t more steps a sequence has (base + t) // size blocks of its own.
        bases = [n + size - 2 - size * own for n, own in zip(lens, shared, strict=True)]
        fits, wait = 0, 0
        for at, path in enumerate(self._paths):
            lefts = [
                forecast.totals[path] - n + more
                for forecast, n, more in zip(forecasts, lens, late, strict=True)
            ]
            excess = overflow(zip(lefts, bases, strict=True), free, size)
            if excess is None:
                fits += 1
                if fits == self._needed:
                    return None
                continue
            blocks, when = excess
            # Started later, it is smaller at that moment by a token for each step.
            better = min(when, (blocks - free - 1) * size + 1)
            wait = min(wait or better, better)
            if at + 1 - fits > self._samples - self._needed:
                self._paths.insert(0, self._paths.pop(at))
                self._stand(running, late, wait)
                expected = forecasts[-1].totals[path] - lens[-1]
                return (
                    f"with it, expected to go on for {expected} tokens,"
                    f" {blocks} blocks would be in use in {when} steps and there are {free}; it has"
                    f" to fit in {self._needed} of {self._samples} forecasts"
                )
        raise AssertionError("either enough forecasts fit or too few")

    def _stand(self, running: list[Sequence], late: list[int], steps: int) -> None:
        """The refusal stands for so many steps: until one that decodes has as many tokens more."""
        for other, more in zip(running, late, strict=False):
            if not more:
                self._pilot, self._until = other, len(other.tokens) + steps
                return
        self._pilot = None

    def _forecast(self, seq: Sequence) -> Forecast:
        """What is foreseen for ``seq``, drawn anew where it has come further than that."""
        forecast = self._forecasts.get(seq)
        if forecast is None:
            forecast = self._forecasts[seq] = Forecast(seq, self._samples, self.lengths)
        elif len(seq.tokens) >= forecast.shortest:
            forecast.extend(self.lengths)
        return forecast

    def _delay(self, running: list[Sequence], seq: Sequence) -> int:
        """Steps until the prompts of all that have started, and of ``seq``, are computed."""
        uncomputed = sum(left for other in running if (left := other.uncomputed) > 1)
        beside = max(1, self._budget - len(running))
        return -(-(uncomputed + seq.uncomputed) // beside)

    @staticmethod
    def _shares(
        seq: Sequence, running: list[Sequence], memory: MemoryView
    ) -> tuple[list[int], int]:
        """Blocks that each of ``running``, and ``seq`` last, would share if ``seq`` started now,
        and how many blocks are nobody's own then: they count as in use for good."""
        held = memory.held_prefix(seq)
        if seq.request.n > 1 and not seq.output_len:
            held = max(held, _siblings_prompt(seq, running, memory.block_size), key=len)
        blocks = [len(other.blocks) for other in running]
        used = memory.total - memory.available
        if sum(blocks) == used and not held:
            return [0] * (len(running) + 1), 0
        shares = [memory.shared(other) for other in running]
        if held:
            for at, other in enumerate(running):
                if other.blocks and other.blocks[0] == held[0]:
                    shares[at] = max(shares[at], _in_common(other.blocks, held))
        common = used - sum(blocks) + sum(shares)
        # A block that is still written to is copied first, so that it becomes its holder's own.
        size = memory.block_size
        settled = [min(n, s.computed // size) for n, s in zip(shares, running, strict=True)]
        return [*settled, len(held)], common


def overflow(sequences: Iterable[tuple[int, int]], room: int, size: int) -> tuple[int, int] | None:
    """A moment at which more than ``room`` blocks are in use: how many, and in how many steps.

    Each (steps left, base) has (base + t) // size blocks in the t-th step from now, up to its
    last. Use grows until somebody ends, so only last steps are looked at. O(n log n).
    """
    ordered = sorted(sequences, reverse=True)  # who ends last comes first
    lefts = [left for left, _ in ordered]
    # First as if blocks could be split: that settles most cases without a loop in Python.
    whole = map(add, accumulate(base for _, base in ordered), map(mul, count(1), lefts))
    tokens, when = max(zip(whole, lefts, strict=True))
    if tokens < (room + 1) * size:
        return None
    if tokens - len(ordered) * (size - 1) > room * size:
        return _in_use(ordered, when, size), when
    blocks, rests = 0, [0] * size  # of those not ended: how many have which remainder
    for alive, (left, base) in enumerate(ordered, 1):
        blocks += base // size
        rests[base % size] += 1
        more, rest = divmod(left, size)
        if blocks + alive * more + sum(rests[size - rest :]) > room:
            return _in_use(ordered, left, size), left
    return None


def _in_use(sequences: list[tuple[int, int]], when: int, size: int) -> int:
    """Blocks in use in the step ``when``."""
    return sum((base + when) // size for left, base in sequences if left >= when)


def _siblings_prompt(seq: Sequence, running: list[Sequence], size: int) -> list[int]:
    """Full blocks of the prompt that a running sibling has computed."""
    full = (seq.prompt_len - 1) // size
    for other in running:
        if other.request is seq.request and other.computed >= seq.prompt_len:
            return other.blocks[:full]
    return []


def _in_common(blocks: list[int], others: list[int]) -> int:
    """How many blocks two lists have in common at their beginnings."""
    for at, (block, other) in enumerate(zip(blocks, others, strict=False)):
        if block != other:
            return at
    return min(len(blocks), len(others))
