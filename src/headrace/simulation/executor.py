"""SimulatedExecutor: runs steps in no time but the one that a cost model gives them."""

from __future__ import annotations

from collections.abc import Callable

from headrace.nouns.sequence import Sequence
from headrace.nouns.step import Sampled, Step, StepResult
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.simulation.arrival import END
from headrace.simulation.clock import VirtualClock


class SimulatedExecutor:
    """One step at a time. ``submit`` says what it is (``load``) and when it will be done
    (``ends``); ``collect`` gives the result, whatever the clock shows: whoever runs the simulation
    moves it. ``steps``, ``tokens`` and ``seconds`` are sums over the steps collected.

    Outputs are as long as ``expect`` said, of tokens that no other sequence has.
    """

    depth = 1

    def __init__(self, cost: StepCost, clock: VirtualClock) -> None:
        self.cost = cost
        self.clock = clock
        self.ends = 0.0
        self.until = 0.0  # no steady step may end then or later
        self.steps = self.tokens = 0
        self.seconds = 0.0
        self.load = StepLoad()
        self.watch: Callable[[StepLoad], None] | None = None  # is told every step as it begins
        self._lengths: dict[str, int] = {}
        self._result: StepResult | None = None

    def expect(self, request_id: str, output_tokens: int) -> None:
        """Each sequence of the request ends by an end token if it reaches so many tokens."""
        self._lengths[request_id] = output_tokens

    def submit(self, step: Step) -> None:
        load = StepLoad.of(step)
        seconds = self.cost.seconds(load)
        self.load = load
        if self.watch is not None:
            self.watch(load)
        self.ends = self.clock.time + seconds
        sampled = tuple(self._sample(s.sequence) if s.samples else None for s in step.slices)
        self._result = StepResult(step.id, sampled, seconds)

    def run_steady(self, rows: int, pairs: int) -> bool:
        """Runs a step of decodes at once and moves the clock; not if that passes ``until``."""
        load = StepLoad(rows, 0, rows, rows, rows, pairs, pairs, pairs, pairs - rows)
        seconds = self.cost.seconds(load)
        end = self.clock.time + seconds
        if end >= self.until:
            return False
        self.clock.time = end
        self.steps += 1
        self.tokens += rows
        self.seconds += seconds
        if self.watch is not None:
            self.watch(load)
        return True

    def collect(self) -> StepResult:
        result, self._result = self._result, None
        assert result is not None, "no step was submitted"
        self.steps += 1
        self.tokens += self.load.rows
        self.seconds += result.elapsed
        return result

    def drop(self) -> None:
        """Forgets everything, the step under way too; the sums stay."""
        self._lengths.clear()
        self._result = None

    def forget(self, sequence: Sequence) -> None:
        pass

    def forget_request(self, request_id: str) -> None:
        """All of its sequences have ended."""
        del self._lengths[request_id]

    def close(self) -> None:
        pass

    def tokens_left(self, seq: Sequence) -> int:
        """Tokens that it will still win."""
        request = seq.request
        return min(self._lengths[request.id], request.max_tokens) - seq.output_len

    def _sample(self, seq: Sequence) -> Sampled:
        won, request = seq.output_len + 1, seq.request
        if won >= self._lengths[request.id] and won < request.max_tokens:
            return Sampled(END)
        return Sampled(-3 - 2 * seq.ticket)  # private prompts have even numbers
