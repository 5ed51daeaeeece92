"""Ranking tokens by logit: the larger first, among equals the lower id first.

Both functions treat each row alone, so a row's result does not depend on its batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Above this share of the vocabulary a full sort is cheaper than a selection.
_SORT_SHARE = 8


def arg_max(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value and its lowest id, per row of float32 [R, V]: float32 [R], int64 [R].

    The value is finite exactly if the row holds no NaN and no +inf and not only -inf.
    """
    if logits.device.type == "cpu":
        # numpy's is vectorised, and takes a NaN for the largest, as torch's does.
        ids = torch.from_numpy(np.argmax(logits.numpy(), axis=-1))
        return logits.gather(-1, ids[:, None])[:, 0], ids
    values, ids = logits.max(dim=-1)
    return values, ids


def largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` highest-ranked values and ids per row of [R, V]: both [R, min(k, V)].

    Logits must not be NaN.
    """
    vocab = logits.shape[-1]
    if k * _SORT_SHARE >= vocab:
        values, ids = logits.sort(dim=-1, descending=True, stable=True)
        return values[:, :k].contiguous(), ids[:, :k].contiguous()
    # One more than asked for shows whether equals straddle the cut.
    values, ids = logits.topk(k + 1, dim=-1)
    equal = values[:, 1:] == values[:, :-1]
    straddles = equal[:, -1].nonzero()[:, 0].tolist()
    values, ids = values[:, :k].contiguous(), ids[:, :k].contiguous()
    if not equal.any():
        return values, ids
    for row in straddles:
        above = int((values[row] > values[row, -1]).sum())
        ids[row, above:] = (logits[row] == values[row, -1]).nonzero()[: k - above, 0]
    ids, order = ids.sort(dim=-1)
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)
