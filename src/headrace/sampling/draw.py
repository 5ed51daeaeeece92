"""Drawing tokens, each row by the cheapest method that is exact for it."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.sampling.distribution import invert, weigh
from headrace.sampling.draws import Draws
from headrace.sampling.nucleus import keep_nucleus
from headrace.sampling.truncation import truncate

# How much of the ranking is looked at. A row goes from one to the next only if it must, so that
# what happens to a row depends on that row alone.
_WIDTHS = (64, 512, 4096)


def draw(logits: Tensor, draws: Draws) -> list[int]:
    """A token id for each row of float32 logits [R, V]."""
    vocab = logits.shape[-1]
    top_k: list[int] = draws.top_k.tolist()
    top_p: list[float] = draws.top_p.tolist()
    tokens = [-1] * len(top_k)
    pending = [r for r, k in enumerate(top_k) if k < vocab or top_p[r] < 1]
    whole = [r for r, k in enumerate(top_k) if k >= vocab and top_p[r] >= 1]
    if whole:
        _put(tokens, whole, draw_whole(select(logits, whole), draws.of(whole)))
    for width in (*_WIDTHS, vocab):
        ready = [r for r in pending if top_k[r] <= width or top_k[r] >= vocab]
        if not ready:
            continue
        ids, settled = draw_ranked(select(logits, ready), draws.of(ready), width)
        _put(tokens, ready, ids)
        wide = [r for r, done in zip(ready, settled.tolist(), strict=True) if not done]
        if wide and logits.device.type == "cpu":
            _put(tokens, wide, draw_nucleus(select(logits, wide), draws.of(wide)))
            wide = []
        pending = sorted({*pending}.difference(ready).union(wide))
    return tokens


def draw_whole(logits: Tensor, draws: Draws) -> Tensor:
    """Token ids int64 [R] drawn from all of V but for min-p; top-k and top-p are not looked at."""
    return _draw_by(weigh(logits, draws), draws)


def draw_nucleus(logits: Tensor, draws: Draws) -> Tensor:
    """Token ids int64 [R] drawn by top-p (below 1), then min-p; top-k is not looked at."""
    weights = weigh(logits, draws)
    keep_nucleus(weights, logits, draws.top_p)
    return _draw_by(weights, draws)


def draw_ranked(logits: Tensor, draws: Draws, width: int) -> tuple[Tensor, Tensor]:
    """Token ids int64 [R] drawn from the first ``width`` tokens of each row's ranking.

    Also returns bool [R]: whether truncation ends within these tokens; where it does not, the id
    means nothing. Rows whose ``top_k`` is below V need a width of at least ``top_k``.
    """
    ids, weights, kept = truncate(logits, draws, width)
    settled = (kept < weights.shape[1]) | (draws.top_k <= width) | (width >= logits.shape[-1])
    ranks = torch.arange(weights.shape[1], device=weights.device)
    rank = invert(weights.masked_fill(ranks >= kept[:, None], 0.0), draws.uniform)
    return ids.gather(-1, rank[:, None])[:, 0], settled


def select(logits: Tensor, rows: list[int]) -> Tensor:
    """Ascending ``rows`` of ``logits``, without a copy where they lie one after the other."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return logits[rows[0] : rows[-1] + 1]
    return logits[torch.tensor(rows, device=logits.device)]


def _draw_by(weights: Tensor, draws: Draws) -> Tensor:
    if bool((draws.min_p > 0).any()):
        weights.masked_fill_(weights < draws.min_p[:, None], 0.0)
    return invert(weights, draws.uniform)


def _put(tokens: list[int], rows: list[int], ids: Tensor) -> None:
    for row, token in zip(rows, ids.tolist(), strict=True):
        tokens[row] = token
