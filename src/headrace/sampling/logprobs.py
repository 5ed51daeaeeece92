"""Log-probabilities of chosen and of the most likely tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headrace.sampling.ranking import largest

Top = tuple[tuple[int, float], ...]


def log_probabilities(
    logits: Tensor, chosen: list[int], counts: list[int]
) -> list[tuple[float, Top]]:
    """Natural log-probability of ``chosen[r]`` and the ``counts[r]`` most likely (id, value).

    ``logits`` float32 [R, V] are the model's own, so that the values do not depend on how the
    token was chosen. The most likely come first, equals by id; tokens that the model rules out
    (a logit of -inf) are never among them.
    """
    values = torch.log_softmax(logits, dim=-1)
    place = torch.tensor(chosen, device=logits.device)
    own = values.gather(-1, place[:, None])[:, 0].tolist()
    most = max(counts)
    if not most:
        return [(value, ()) for value in own]
    _, ids = largest(logits, most)
    tops = values.gather(-1, ids).tolist()
    rows = zip(own, ids.tolist(), tops, counts, strict=True)
    return [
        (value, tuple((i, v) for i, v in zip(row[:n], top[:n], strict=True) if v > -math.inf))
        for value, row, top, n in rows
    ]
