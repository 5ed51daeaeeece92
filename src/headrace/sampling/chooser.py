"""Chooser: the arithmetic of sampling on rows of logits, and which implementation does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from headrace.kernels.operators import Logits
from headrace.sampling.penalties import Edit
from headrace.sampling.recipe import Recipe

Top = tuple[tuple[int, float], ...]

UNSOUND = -1
"""Chosen for a row that holds a NaN or +inf, or nothing but -inf."""


@dataclass(frozen=True, slots=True)
class Columns:
    """How each of R rows is chosen from, by position in arrays [R]; see ``Recipe``.

    A ``temperature`` of 0 takes the most likely token, whatever the rest says.
    """

    temperature: npt.NDArray[np.float32]
    top_k: npt.NDArray[np.int64]
    top_p: npt.NDArray[np.float64]
    min_p: npt.NDArray[np.float32]
    streams: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, recipes: list[Recipe]) -> Columns:
        return cls(
            np.array([0.0 if r.greedy else r.temperature for r in recipes], np.float32),
            np.array([r.top_k for r in recipes], np.int64),
            np.array([r.top_p for r in recipes], np.float64),
            np.array([r.min_p for r in recipes], np.float32),
            np.array([r.stream for r in recipes], np.uint64),
        )

    def take(self, rows: list[int]) -> Columns:
        """Those of some rows."""
        return Columns(
            self.temperature[rows],
            self.top_k[rows],
            self.top_p[rows],
            self.min_p[rows],
            self.streams[rows],
        )


class Chooser(Protocol):
    """Chooses tokens as ``docs/sampling.md`` defines, each row by itself, bit for bit.

    Logits are float32 [R, V], each row contiguous; they stay as they are. ``name`` is for people.
    """

    name: str

    def most_likely(self, logits: Logits) -> list[int]:
        """The first token of each row's ranking, or ``UNSOUND``."""
        ...

    def choose(
        self,
        logits: Logits,
        rows: list[int],
        columns: Columns,
        positions: list[int],
        edits: list[Edit] | None = None,
    ) -> list[int]:
        """A token for each of ``rows``, drawn as its columns say, or ``UNSOUND``.

        ``positions[i]`` is where the token will stand in its sequence. With ``edits``, a row's
        logits change first; it has to be sound before and after.
        """
        ...

    def log_probabilities(
        self, logits: Logits, rows: list[int], chosen: list[int], counts: list[int]
    ) -> list[tuple[float, Top]]:
        """Natural log-probability of ``chosen[i]`` and the ``counts[i]`` most likely (id, value).

        Of sound ``rows``. The most likely come first, equals by id; tokens that the model rules
        out (a logit of -inf) are never among them.
        """
        ...
