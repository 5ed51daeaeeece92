"""Top-p where the nucleus is wide: exact, in time linear in the vocabulary, without a sort.

Weights fall into buckets by the leading bits of their float32 form, eight to each power of two.
The mass of each bucket tells in which one the nucleus ends; only that one is ranked.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# A weight in [0, 1] keeps its sign, exponent and three bits of its fraction.
_DROPPED_BITS = 20
_BUCKETS = 1024


def keep_nucleus(weights: Tensor, logits: Tensor, top_p: Tensor) -> None:
    """Set the weights float32 [R, V] outside the nucleus of ``top_p`` (float64 [R], < 1) to zero.

    The nucleus is the shortest prefix of the ranking by ``logits`` that has at least ``top_p``
    of the row's weight (Holtzman et al.: The Curious Case of Neural Text Degeneration, 2020).
    All tensors are in the CPU's memory.
    """
    bucket = (weights.view(torch.int32) >> _DROPPED_BITS).long()
    mass = torch.zeros(len(weights), _BUCKETS, dtype=torch.float64)
    mass.scatter_add_(1, bucket, weights.double())
    downto = mass.flip(-1).cumsum(-1)
    needed = top_p * downto[:, -1]
    above = (downto < needed[:, None]).sum(-1, keepdim=True)
    missing = needed - (downto - mass.flip(-1)).gather(-1, above)[:, 0]
    last = _BUCKETS - 1 - above
    weights.masked_fill_(bucket < last, 0.0)
    ends = zip(last[:, 0].tolist(), missing.tolist(), strict=True)
    for row, (end, mass_missing) in enumerate(ends):
        ids = np.flatnonzero(bucket[row].numpy() == end)
        ranked = ids[np.argsort(-logits[row].numpy()[ids], kind="stable")]
        inside = weights[row].numpy()
        sums = np.cumsum(inside[ranked], dtype=np.float64)
        # The token that reaches the missing mass is the last one in.
        inside[ranked[int((sums < mass_missing).sum()) + 1 :]] = 0.0
