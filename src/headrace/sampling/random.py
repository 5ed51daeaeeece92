"""Random numbers as a pure function of (seed, sequence index, token position).

SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014,
figure 17; the mixing constants are Stafford's variant 13): its n-th output is a mix of
``start + n * GOLDEN``, so any output can be had without those before it. Nothing is remembered
between draws; a seeded request repeats in any batch, after a preemption and on another machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def splitmix64(start: int, n: int) -> int:
    """The ``n``-th output (from 0) of the generator that starts at ``start``: 64 bits."""
    z = (start + (n + 1) * GOLDEN) & _WORD
    z = ((z ^ (z >> 30)) * _FIRST) & _WORD
    z = ((z ^ (z >> 27)) * _SECOND) & _WORD
    return z ^ (z >> 31)


def stream(seed: int, index: int) -> int:
    """Start of the generator of sequence ``index`` of a request with ``seed`` (taken mod 2^64)."""
    return splitmix64(splitmix64(seed & _WORD, 0), index)


def uniforms(streams: npt.ArrayLike, positions: list[int]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) with 53 random bits per (stream, token position)."""
    z = np.array(streams, dtype=np.uint64)
    z += (np.array(positions, dtype=np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
