"""Drawing tokens: truncation to a prefix of the ranking, then inversion of the distribution.

In symbols, with logits x, temperature T and m = max x: weights w = exp((x - m) / T), so that the
most likely token weighs exactly 1; the token drawn with a uniform u is the first whose
cumulative weight exceeds u times the total. Every truncation keeps a prefix of the ranking.
Rows are treated alone and all sums run in a fixed order: no result depends on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from headrace.sampling.ranking import largest

# Sums go block by block: fast, close to exact, and the same for one row and for many.
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Draws:
    """How each of R rows is drawn; every field is a tensor [R].

    ``peak`` (float32): the row's largest logit, finite. ``temperature`` (float32): positive.
    ``top_k`` (int64): at least 1. ``top_p`` (float64): above 1 means all. ``min_p`` (float32).
    ``uniform`` (float64): in [0, 1).
    """

    peak: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniform: Tensor

    def of(self, rows: Tensor) -> Draws:
        """The same for some rows only."""
        return Draws(
            self.peak[rows],
            self.temperature[rows],
            self.top_k[rows],
            self.top_p[rows],
            self.min_p[rows],
            self.uniform[rows],
        )


def weigh(logits: Tensor, draws: Draws) -> Tensor:
    """Weights exp((x - peak) / T), float32, for float32 logits [R, anything]."""
    scaled = logits - draws.peak[:, None]
    return scaled.div_(draws.temperature[:, None]).exp_()


def draw_whole(logits: Tensor, draws: Draws) -> Tensor:
    """Token ids int64 [R] drawn from the whole vocabulary, but for min-p; logits [R, V].

    Needs no ranking: a token is kept if its weight is at least ``min_p``. Top-k and top-p are
    not looked at.
    """
    weights = _blocks(weigh(logits, draws))
    if bool((draws.min_p > 0).any()):
        weights.masked_fill_(weights < draws.min_p[:, None, None], 0.0)
    sums = weights.sum(-1)
    upto = sums.cumsum(-1, dtype=torch.float64)
    target = draws.uniform * upto[:, -1]
    block = _invert(sums, target)[:, None]
    before = functional.pad(upto, (1, 0)).gather(-1, block)[:, 0]
    inside = weights.gather(1, block[:, :, None].expand(-1, -1, _BLOCK))[:, 0]
    return block[:, 0] * _BLOCK + _invert(inside, target - before)


def draw_ranked(logits: Tensor, draws: Draws, width: int) -> tuple[Tensor, Tensor]:
    """Token ids int64 [R] drawn from the first ``width`` tokens of each row's ranking.

    Also returns bool [R]: whether the truncation lies within these tokens; where it does not,
    the id means nothing and a larger width is needed. Rows whose ``top_k`` is below V need a
    width of at least ``top_k``.
    """
    ids, weights, kept = truncate(logits, draws, width)
    vocab = logits.shape[-1]
    settled = (kept < weights.shape[1]) | (draws.top_k <= width) | (width >= vocab)
    ranks = torch.arange(weights.shape[1], device=weights.device)
    weights = weights.masked_fill(ranks >= kept[:, None], 0.0)
    target = draws.uniform * weights.cumsum(-1, dtype=torch.float64)[:, -1]
    return ids.gather(-1, _invert(weights, target)[:, None])[:, 0], settled


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
            everything = _blocks(weigh(logits, draws)).sum(-1)
            everything = everything.cumsum(-1, dtype=torch.float64)[:, -1]
            mass = torch.where(draws.top_k > width, everything, mass)
        before = functional.pad(sums[:, :-1], (1, 0))
        kept = torch.minimum(kept, (before < (draws.top_p * mass)[:, None]).sum(-1))
    kept = torch.minimum(kept, (weights >= draws.min_p[:, None]).sum(-1))
    return ids, weights, kept


def _blocks(weights: Tensor) -> Tensor:
    """[R, V] as [R, ceil(V / BLOCK), BLOCK], filled up with zeros."""
    missing = -weights.shape[-1] % _BLOCK
    if missing:
        weights = functional.pad(weights, (0, missing))
    return weights.view(weights.shape[0], -1, _BLOCK)


def _invert(weights: Tensor, target: Tensor) -> Tensor:
    """First place whose cumulative weight exceeds ``target``; never one of weight zero.

    ``weights`` float32 [R, W], some positive in each row; ``target`` float64 [R].
    """
    sums = weights.cumsum(-1, dtype=torch.float64)
    found = (sums <= target[:, None]).sum(-1)
    # Rounding may leave the target at or past the last sum: then the last positive weight.
    places = torch.arange(weights.shape[1], device=weights.device)
    last = torch.where(weights > 0, places, 0).amax(-1)
    return torch.minimum(found, last)
