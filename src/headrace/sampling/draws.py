"""Draws: how the rows of a batch are to be drawn, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """How each of R rows is drawn; every field is a tensor [R].

    ``peak`` (float32): the row's largest logit, finite. ``temperature`` (float32): positive.
    ``top_k`` (int64): at least 1; from V on all are kept. ``top_p`` (float64): above 0; above 1
    all are kept. ``min_p`` (float32): in [0, 1]. ``uniform`` (float64): in [0, 1).
    """

    peak: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniform: Tensor

    def of(self, rows: list[int]) -> Draws:
        """The same for some rows only."""
        where = torch.tensor(rows, device=self.peak.device)
        return Draws(
            self.peak[where],
            self.temperature[where],
            self.top_k[where],
            self.top_p[where],
            self.min_p[where],
            self.uniform[where],
        )
