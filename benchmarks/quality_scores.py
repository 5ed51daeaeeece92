"""Scores of a window from its logits, for every engine that shows them. Needs numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Logits = np.ndarray[Any, np.dtype[np.floating[Any]]]

ROWS = 64  # logits made float64 at a time: 25 MB with a vocabulary of 49,152


def score(pieces: Iterable[Logits], window: Sequence[int]) -> tuple[float, list[int]]:
    """Sum of -log p(token) over the window's tokens but the first, and the most likely tokens.

    ``pieces`` are the logits [rows, V] of the window's tokens, in any number of pieces; the last
    token's predict nothing and may be missing. Sums are float64. Raises ValueError where logits
    are missing or not finite.
    """
    total, top, row = 0.0, list[int](), 0
    for piece in pieces:
        for begin in range(0, len(piece), ROWS):
            rows = piece[begin : begin + ROWS].astype(np.float64)
            targets = np.asarray(window[row + 1 : row + 1 + len(rows)], dtype=np.int64)
            rows = rows[: len(targets)]
            row += len(rows)
            if not len(rows):
                break
            if not np.isfinite(rows).all():
                raise ValueError(f"logits of the first {row} tokens are not finite")
            best = rows.max(axis=1)
            sums = best + np.log(np.exp(rows - best[:, None]).sum(axis=1))
            total += float((sums - rows[np.arange(len(rows)), targets]).sum())
            top += rows.argmax(axis=1).tolist()
    if row != len(window) - 1:
        raise ValueError(f"logits of {row} tokens were given; the window has {len(window)}")
    return total, top


def until(output: Sequence[int], ends: Iterable[int]) -> list[int]:
    """The tokens before the first that ends an output."""
    stop = set(ends)
    end = next((i for i, token in enumerate(output) if token in stop), len(output))
    return list(output[:end])
