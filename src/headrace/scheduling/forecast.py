"""Forecast: how long a sequence may become, several times over."""

from __future__ import annotations

from headrace.nouns.sequence import Sequence
from headrace.scheduling.output_lengths import OutputLengths

MASK = (1 << 64) - 1


class Forecast:
    """Independent draws of a sequence's final length, prompt included.

    A draw stands until the sequence outlives it; a longer one then takes its place (``extend``).
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
        us = [uniform(seq.ticket, path, known) for path in outlived]
        draws = lengths.draws(seq.request, known - prompt, us)
        for path, length in zip(outlived, draws, strict=True):
            self.totals[path] = prompt + length
        self.shortest, self.longest = min(self.totals), max(self.totals)
        return outlived


def uniform(ticket: int, path: int, known: int) -> float:
    """A number in [0, 1) that depends on the three counters only (SplitMix64)."""
    state = ((ticket << 40) + (path << 32) + known) * 0x9E3779B97F4A7C15 & MASK
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
    return (state >> 11) / (1 << 53)
