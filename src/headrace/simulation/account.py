"""Account: what the sequences of one simulated request come to."""

from __future__ import annotations

from collections.abc import Callable

from headrace.nouns.delta import Delta
from headrace.nouns.sequence import FinishReason, Sequence
from headrace.nouns.step import Sampled
from headrace.simulation.arrival import Arrival
from headrace.simulation.served import Served

NOTHING = Delta("", 0)


class Account:
    """Collects the request's sequences; ``told`` hears of every end, how many are left open."""

    __slots__ = ("_ended", "_told", "arrival", "request_id", "sequences")

    def __init__(
        self, arrival: Arrival, request_id: str, told: Callable[[Account, int], None]
    ) -> None:
        self.arrival = arrival
        self.request_id = request_id
        self.sequences: list[Sequence] = []
        self._told = told
        self._ended = 0

    def of(self, seq: Sequence) -> Silence:
        """What stands where a live engine has the sequence's output."""
        self.sequences.append(seq)
        return Silence(self)

    def end_one(self) -> None:
        self._ended += 1
        self._told(self, self.arrival.n - self._ended)

    def served(self) -> Served:
        """The sum; every sequence has ended."""
        ends = [s.finished_at for s in self.sequences if s.finished_at is not None]
        served = Served(self.arrival, max(ends))
        finishes = []
        waits: dict[str, float] = {}
        for seq in self.sequences:
            served.admitted = _earlier(served.admitted, seq.admitted_at)
            served.first_token = _earlier(served.first_token, seq.first_token_at)
            served.output += seq.output_len
            served.cached += seq.cached or 0
            served.preemptions += seq.preemptions
            finishes.append(seq.finish_reason)
            for cause, seconds in seq.waits.items():
                waits[cause.value] = waits.get(cause.value, 0.0) + seconds
        served.prompt = self.arrival.prompt_tokens
        served.finish = FinishReason.ABORT if FinishReason.ABORT in finishes else finishes[0]
        served.waits = waits
        return served


class Silence:
    """Nobody reads simulated text: there is none, and no stop string in it."""

    __slots__ = ("_account",)

    def __init__(self, account: Account) -> None:
        self._account = account

    def push(self, sampled: Sampled) -> None:
        return None

    def close(self) -> None:
        self._account.end_one()

    def take(self) -> Delta:
        return NOTHING


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
