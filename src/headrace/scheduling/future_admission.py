"""Future: admission by the memory that everybody is going to need until they end."""

from __future__ import annotations

from math import ceil
from operator import sub

from headrace.nouns.errors import ConfigError
from headrace.nouns.sequence import Sequence
from headrace.scheduling.forecast import Forecast
from headrace.scheduling.memory_peak import Peak
from headrace.scheduling.output_lengths import OutputLengths
from headrace.scheduling.policy import MemoryView, Surroundings

SAMPLES = 4
CONFIDENCE = 0.75
SPARE = 0.03
ROOMY = 8
"""If an eighth of the memory is left even if nobody ended, forecasts are not looked at closely."""
GLANCES = 32
"""Admissions in a row without looking for those that outlived their forecasts."""


class Future:
    """Admits what fits at every moment until everybody has ended, as far as can be foreseen.

    Past-Future (arXiv:2507.10150, section 4): each sequence's output length is drawn from the
    lengths observed, given what it has produced already; with those of the running sequences and
    the candidate, memory use peaks right before one of them ends. Differences from the paper:

    - Not one forecast but ``samples``, see ``Forecast``; the peak has to fit in at least
      ``confidence`` of them, and leave the share ``spare`` of memory free where anybody has to end
      for the others to have room.
    - Only moments count until the candidate ends. Where those running will come to need too much
      later, refusing it changes nothing.
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
        spare: float = SPARE,
        lengths: OutputLengths | None = None,
    ) -> None:
        if samples < 1:
            raise ConfigError(f"samples is {samples}; it must be at least 1")
        if not 0 < confidence <= 1:
            raise ConfigError(f"confidence is {confidence}; it must be above 0 and at most 1")
        if not 0 <= spare < 1:
            raise ConfigError(f"spare is {spare}; it must be at least 0 and below 1")
        self.lengths = lengths or OutputLengths()
        self._spare = spare
        self._samples = samples
        self._needed = ceil(confidence * samples - 1e-9)
        self._budget, self._size = 1, 1
        self._forecasts: dict[Sequence, Forecast] = {}  # of those running, and some waiting
        self._promised = 0  # blocks that those running need if none ends before the last
        self._glances = 0
        self._paths = list(range(samples))  # forecasts, the one that was tightest last first
        # No path's peak is above these, in tokens, whatever may delay those that run.
        self._bounds = [0] * samples
        self._refused: Sequence | None = None
        self._reason = ""
        self._pilot: Sequence | None = None  # the refusal stands until it has ``_until`` tokens
        self._until = 0

    # What the scheduler tells

    def bind(self, surroundings: Surroundings) -> None:
        self._budget = surroundings.limits.token_budget
        self._size = surroundings.memory.block_size

    def admitted(self, seq: Sequence, found: int, now: float) -> None:
        self._refused = None
        forecast = self._forecast(seq)
        forecast.promised = self._blocks(forecast.longest)
        self._promised += forecast.promised
        for path, total in enumerate(forecast.totals):
            self._bounds[path] += total + self._size

    def preempted(self, seq: Sequence, lost: int, now: float) -> None:
        self._refused = None
        forecast = self._forecasts[seq]
        self._promised -= forecast.promised
        forecast.promised = 0

    def ended(self, seq: Sequence, now: float) -> None:
        self._refused = None
        forecast = self._forecasts.pop(seq, None)
        if forecast is not None:
            self._promised -= forecast.promised
        self.lengths.observe(seq)

    # Admission

    def refusal(self, seq: Sequence, running: list[Sequence], memory: MemoryView) -> str | None:
        if not running:
            self._bounds = [0] * self._samples
            return None
        if seq is self._refused and self._pilot and len(self._pilot.tokens) < self._until:
            return self._reason
        need, rest = self._blocks(self._forecast(seq).longest), memory.total // ROOMY
        roomy = self._promised + need + rest <= memory.total and need + rest <= memory.available
        if roomy and self._glances < GLANCES:
            self._glances += 1
            return None
        self._glances = 0
        reason = self._foresee(seq, running, memory)
        self._refused = None if reason is None else seq
        self._reason = reason or ""
        return reason

    def _foresee(self, seq: Sequence, running: list[Sequence], memory: MemoryView) -> str | None:
        """Why ``seq`` may not start, or None if it fits in enough forecasts."""
        lens = [len(other.tokens) for other in running]
        known = self._forecasts
        for other, n in zip(running, lens, strict=True):
            if n >= known[other].shortest:
                self._forecast(other)
        candidate = self._forecast(seq)
        total, size = memory.total, memory.block_size
        if self._promised + self._blocks(candidate.longest) <= total:  # even if nobody ended
            return None
        room = total - int(self._spare * total)
        loose = [
            path
            for path in self._paths
            if self._bounds[path] + candidate.totals[path] + size > room * size
        ]
        fits = self._samples - len(loose)
        if fits >= self._needed:
            return None
        lefts = [n - other.computed for other, n in zip(running, lens, strict=True)]
        delay = self._delay(sum([left for left in lefts if left > 1]), len(running), seq)
        late = [delay if left > 1 else 0 for left in lefts]
        late.append(delay)
        lens.append(len(seq.tokens))
        shared, common = self._shares(seq, running, memory)
        free = room - common
        # After t more steps a sequence has (base + t) // size blocks of its own.
        bases = [n + size - 2 - size * own for n, own in zip(lens, shared, strict=True)]
        sooner = [n - more for n, more in zip(lens, late, strict=True)]
        every = [known[other].totals for other in running]
        every.append(candidate.totals)
        misses, wait = 0, 0
        for path in loose:
            totals = [draws[path] for draws in every]
            lefts = list(map(sub, totals, sooner))
            peak = Peak(zip(lefts, bases, strict=True), size, lefts[-1])
            excess = peak.excess(free)
            if excess is None:
                fits += 1
                unsure = sum(t + size for t, more in zip(totals, late, strict=True) if more)
                self._bounds[path] = peak.tokens + common * size + unsure
                if fits == self._needed:
                    return None
                continue
            blocks, when = excess
            # Started later, it is smaller at that moment by a token for each step.
            better = min(when, (blocks - free - 1) * size + 1)
            wait = min(wait or better, better)
            misses += 1
            if misses > self._samples - self._needed:
                self._paths.remove(path)
                self._paths.insert(0, path)
                self._stand(running, late, wait)
                return (
                    f"with it, expected to go on for {totals[-1] - lens[-1]} tokens,"
                    f" {blocks} blocks would be in use in {when} steps and there are {free}; it has"
                    f" to fit in {self._needed} of {self._samples} forecasts"
                )
        raise AssertionError("either enough forecasts fit or too few")

    def _stand(self, running: list[Sequence], late: list[int], steps: int) -> None:
        """The refusal stands for so many steps: until one that decodes has as many tokens more.

        But not for longer than others' prompts take, which are why some are late.
        """
        if any(late[:-1]):
            steps = min(steps, late[-1])
        self._pilot = None
        for other, more in zip(running, late, strict=False):
            if not more:
                self._pilot, self._until = other, len(other.tokens) + steps
                return

    def _forecast(self, seq: Sequence) -> Forecast:
        """What is foreseen for ``seq``, drawn anew where it has come further than that."""
        forecast = self._forecasts.get(seq)
        if forecast is None:
            forecast = self._forecasts[seq] = Forecast(seq, self._samples, self.lengths)
        elif len(seq.tokens) >= forecast.shortest:
            changed = forecast.extend(self.lengths)
            if forecast.promised:  # it runs
                self._promised -= forecast.promised
                forecast.promised = self._blocks(forecast.longest)
                self._promised += forecast.promised
                for path in changed:
                    self._bounds[path] += forecast.totals[path] + self._size
        return forecast

    def _blocks(self, total: int) -> int:
        """Blocks that the state of a whole sequence fills; that of its last token is not kept."""
        return (total + self._size - 2) // self._size

    def _delay(self, uncomputed: int, running: int, seq: Sequence) -> int:
        """Steps until the prompts of all that have started, and of ``seq``, are computed."""
        beside = max(1, self._budget - running)
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
        blocks = sum([len(other.blocks) for other in running])
        used = memory.total - memory.available
        if blocks == used and not held:
            return [0] * (len(running) + 1), 0
        shares = [memory.shared(other) for other in running]
        if held:
            for at, other in enumerate(running):
                if other.blocks and other.blocks[0] == held[0]:
                    shares[at] = max(shares[at], _in_common(other.blocks, held))
        common = used - blocks + sum(shares)
        # A block that is still written to is copied first, so that it becomes its holder's own.
        size = memory.block_size
        settled = [min(n, s.computed // size) for n, s in zip(shares, running, strict=True)]
        return [*settled, len(held)], common


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
