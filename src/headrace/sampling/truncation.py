"""Truncation: how much of the ranking top-k, top-p and min-p keep. Each keeps a prefix of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from headrace.sampling.distribution import total, weigh
from headrace.sampling.draws import Draws
from headrace.sampling.ranking import largest


def truncate(logits: Tensor, draws: Draws, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first ``width`` ids of the ranking, their weights, and how many truncation keeps.

    Shapes [R, W], [R, W], [R] with W = min(width, V). Top-k comes first; top-p looks at the
    probabilities that top-k leaves, and keeps the shortest prefix with a mass of at least
    ``top_p``; min-p keeps what weighs at least ``min_p`` times the most likely token.
    A count of W where top-k is larger says that the prefix may go on.
    """
    values, ids = largest(logits, width)
    weights = weigh(values, draws)
    width = weights.shape[1]
    sums = weights.cumsum(-1, dtype=torch.float64)
    kept = draws.top_k.clamp(max=width)
    if bool((draws.top_p <= 1).any()):
        mass = sums.gather(-1, kept[:, None] - 1)[:, 0]
        if bool((draws.top_k > width).any()):
            everything = total(weigh(logits, draws))
            mass = torch.where(draws.top_k > width, everything, mass)
        before = functional.pad(sums[:, :-1], (1, 0))
        kept = torch.minimum(kept, (before < (draws.top_p * mass)[:, None]).sum(-1))
    kept = torch.minimum(kept, (weights >= draws.min_p[:, None]).sum(-1))
    return ids, weights, kept
