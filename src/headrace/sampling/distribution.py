"""Distribution: tokens' weights, and the token that a uniform number stands for.

In symbols, with logits x, temperature T and m = max x: weights w = exp((x - m) / T), so that the
most likely token weighs exactly 1; the token for a uniform u in [0, 1) is the first whose
cumulative weight exceeds u times the total. Rows are treated alone and all sums run in a fixed
order: no result depends on the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from headrace.sampling.draws import Draws

# Sums go block by block: fast, close to exact, and the same for one row and for many.
_BLOCK = 256


def weigh(logits: Tensor, draws: Draws) -> Tensor:
    """Weights exp((x - peak) / T), float32, for float32 logits [R, anything]."""
    scaled = logits - draws.peak[:, None]
    return scaled.div_(draws.temperature[:, None]).exp_()


def total(weights: Tensor) -> Tensor:
    """Sums float64 [R] of weights float32 [R, V]."""
    return _blocks(weights).sum(-1).cumsum(-1, dtype=torch.float64)[:, -1]


def invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Places int64 [R] that ``uniform`` (float64 [R]) stands for; weights float32 [R, V].

    Some weight is positive in each row; a place of weight zero is never the answer.
    """
    blocks = _blocks(weights)
    sums = blocks.sum(-1)
    upto = sums.cumsum(-1, dtype=torch.float64)
    target = uniform * upto[:, -1]
    block = _first_above(sums, upto, target)[:, None]
    before = functional.pad(upto, (1, 0)).gather(-1, block)[:, 0]
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK))[:, 0]
    place = _first_above(inside, inside.cumsum(-1, dtype=torch.float64), target - before)
    return block[:, 0] * _BLOCK + place


def _first_above(weights: Tensor, upto: Tensor, target: Tensor) -> Tensor:
    """First place whose cumulative weight ``upto`` exceeds ``target``."""
    found = (upto <= target[:, None]).sum(-1)
    # Rounding may leave the target at or past the last sum: then the last positive weight.
    places = torch.arange(weights.shape[1], device=weights.device)
    last = torch.where(weights > 0, places, 0).amax(-1)
    return torch.minimum(found, last)


def _blocks(weights: Tensor) -> Tensor:
    """[R, V] as [R, ceil(V / BLOCK), BLOCK], filled up with zeros."""
    missing = -weights.shape[-1] % _BLOCK
    if missing:
        weights = functional.pad(weights, (0, missing))
    return weights.view(weights.shape[0], -1, _BLOCK)
