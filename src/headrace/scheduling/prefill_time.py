"""PrefillTime: how long a sequence will take to its next token once it has started."""

from __future__ import annotations

from headrace.nouns.sequence import Sequence
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.scheduling.limits import Limits

RECENT = 0.2  # weight of the last step in the mean step time
NEWS = 0.05  # weight of the last first token in what is learnt from them
CONFIDENCE = 0.9
SPEED = 0.1  # of the allowance, in steps


class PrefillTime:
    """Full steps needed, times the time of one, corrected by what came true.

    A step has its budget less a token for each running sequence for prefill. Its time is what
    ``cost`` predicts of such a step; without a cost it is the mean of the last steps. Neither is
    right for a server that shapes its steps itself, so two corrections are learnt from first
    tokens: a factor, the true by the predicted times in sum, so that long prompts weigh most; and
    an allowance in seconds that is added to it, moved up by 9 parts where the truth was longer and
    down by one where it was not, so that it settles at the ``CONFIDENCE`` quantile of what is left
    (stochastic approximation, Robbins and Monro, 1951). ``step`` is the mean time of the last
    steps in seconds.
    """

    def __init__(self) -> None:
        self.step = 0.0
        self.allowance = 0.0
        self._budget = 1
        self._cost: StepCost | None = None
        self._running: dict[Sequence, int] = {}  # with the tokens known at the start
        self._known = 0  # their sum
        self._predicted: dict[Sequence, tuple[float, float]] = {}  # start, seconds; no token yet
        self._sums = (0.0, 0.0)  # true and predicted seconds, the newest weighing most
        self._planned: float | None = None  # the last plan, if something ran then

    def bind(self, limits: Limits, cost: StepCost | None) -> None:
        self._budget, self._cost = limits.token_budget, cost

    @property
    def factor(self) -> float:
        true, predicted = self._sums
        return true / predicted if predicted else 1.0

    def seconds(self, tokens: int) -> float:
        """From the start of a sequence with so many tokens to compute to its next token."""
        return self.factor * self._full_steps(tokens) + self.allowance

    def planning(self, now: float) -> None:
        """A step is about to be planned."""
        if self._planned is not None and now > self._planned:
            last = now - self._planned
            self.step += (RECENT if self.step else 1.0) * (last - self.step)
        self._planned = now if self._running else None
        if self._predicted:
            self._learn()

    def started(self, seq: Sequence, now: float, learn: bool = True) -> None:
        """``seq`` runs from now on; with ``learn`` its first token will be compared."""
        tokens = seq.uncomputed
        if learn and seq.first_token_at is None and tokens > 1:
            predicted = self._full_steps(tokens)
            if predicted:
                self._predicted[seq] = (now, predicted)
        self._running[seq] = len(seq.tokens)
        self._known += len(seq.tokens)
        self._planned = now

    def stopped(self, seq: Sequence) -> None:
        """``seq`` does not run, or no more."""
        self._known -= self._running.pop(seq, 0)
        self._predicted.pop(seq, None)

    def _learn(self) -> None:
        for seq in [seq for seq in self._predicted if seq.first_token_at is not None]:
            start, predicted = self._predicted.pop(seq)
            assert seq.first_token_at is not None
            true = seq.first_token_at - start
            longer = true > self.factor * predicted + self.allowance
            move = CONFIDENCE if longer else CONFIDENCE - 1
            self.allowance = max(0.0, self.allowance + SPEED * self.step * move)
            self._sums = (
                (1 - NEWS) * self._sums[0] + NEWS * true,
                (1 - NEWS) * self._sums[1] + NEWS * predicted,
            )

    def _full_steps(self, tokens: int) -> float:
        running = len(self._running)
        room = max(self._budget - running, self._budget // 8, 1)
        steps = -(-tokens // room)
        if self._cost is None:
            return steps * self.step
        chunk = min(tokens, room)
        pairs = chunk * tokens // 2
        load = StepLoad(
            rows=chunk + running,
            slices=1 + running,
            decodes=running,
            samples=running,
            pairs=pairs + self._known,
            decode_pairs=self._known,
            sample_pairs=self._known,
            read=self._known,
        )
        return steps * self._cost.seconds(load)
