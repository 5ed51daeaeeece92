"""Forecast: how long a sequence may become, several times over."""

from __future__ import annotations

from headrace.nouns.sequence import Sequence
from headrace.scheduling.output_lengths import OutputLengths

MASK = (1 << 64) - 1


class Forecast:
    """Draws of a sequence's final length, prompt included.

    They are a systematic sample: drawn m at a time, each from another m-th of the distribution.
    So all sequences of a kind look alike, and who waits does not wait for having drawn badly.
    Which m-th is whose depends on the sequence, so that one draw of each sequence, the same for
    all, are independent. A draw stands until the sequence outlives it; a longer one then takes its
    place (``extend``).

    ``totals`` are the draws, in tokens; ``shortest`` and ``longest`` the extremes among them.
    ``promised`` is its owner's account: blocks set aside for it, 0 while it does not run.
    """

    __slots__ = ("longest", "promised", "seq", "shortest", "totals")

    def __init__(self, seq: Sequence, samples: int, lengths: OutputLengths) -> None:
        self.seq = seq
        self.promised = 0
        self.totals = [0] * samples
        self.extend(lengths)

    def extend(self, lengths: OutputLengths) -> list[int]:
        """Draws anew where the sequence has come as far as foreseen or further; says where."""
        seq = self.seq
        prompt, known = seq.prompt_len, len(seq.tokens)
        outlived = [path for path, total in enumerate(self.totals) if total <= known]
        count = len(outlived)
        place = uniform(seq.ticket, known) * count
        us = [(place + at) % count / count for at in range(count)]
        draws = lengths.draws(seq.request, known - prompt, us)
        for path, length in zip(outlived, draws, strict=True):
            self.totals[path] = prompt + length
        self.shortest, self.longest = min(self.totals), max(self.totals)
        return outlived


def uniform(ticket: int, known: int) -> float:
    """A number in [0, 1) that depends on the two counters only (SplitMix64)."""
    state = ((ticket << 32) + known) * 0x9E3779B97F4A7C15 & MASK
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
    return (state ^ state >> 31) / (1 << 64)
