"""Changes to logits before a token is chosen: penalties, biases, suppressed tokens.

``Edit`` gathers one row's changes; ``apply`` makes those of all rows at once. A mask of the
tokens that a grammar allows would be one more field here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.kernels.operators import Logits

Place = Callable[[npt.NDArray[Any]], Any]


def _no_ids() -> npt.NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


def _no_values() -> npt.NDArray[np.float32]:
    return np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Edit:
    """One row's changes, in the order they apply.

    ``seen`` are the distinct ids of prompt and output, ``outputs`` how often each stands in the
    output. ``repetition`` r divides the positive logits of all seen tokens by r and multiplies
    the others (Keskar et al., CTRL, 2019, section 4.1, in the form common since); each token in
    the output then loses ``frequency`` times its count, and ``presence`` once. ``biases`` are
    added to ``bias_ids``. ``suppressed`` ids get -inf.
    """

    seen: npt.NDArray[np.int64] = field(default_factory=_no_ids)
    outputs: npt.NDArray[np.float32] = field(default_factory=_no_values)
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    bias_ids: npt.NDArray[np.int64] = field(default_factory=_no_ids)
    biases: npt.NDArray[np.float32] = field(default_factory=_no_values)
    suppressed: npt.NDArray[np.int64] = field(default_factory=_no_ids)


def apply(logits: Logits, edits: Rows[Edit]) -> None:
    """Change contiguous float32 logits [R, V] in place, row r by ``edits[r]``; ids are below V.

    The same operations in the same order on arrays and tensors, so the same bits.
    """
    flat, vocab = logits.reshape(-1), logits.shape[-1]
    place = _placing(logits)
    with np.errstate(all="ignore"):  # what overflows is reported when a token is chosen
        _penalise(flat, vocab, edits, place)
        where = _places([e.bias_ids for e in edits], vocab)
        if len(where):
            at = place(where)
            flat[at] = flat[at] + place(np.concatenate([e.biases for e in edits]))
        where = _places([e.suppressed for e in edits], vocab)
        if len(where):
            flat[place(where)] = -math.inf


def _placing(logits: Logits) -> Place:
    """What makes of an array one that can be combined with ``logits``."""
    if isinstance(logits, np.ndarray):
        return lambda array: array
    import torch

    device = logits.device
    return lambda array: torch.from_numpy(array).to(device)


def _penalise(flat: Any, vocab: int, edits: Rows[Edit], place: Place) -> None:
    where = _places([e.seen for e in edits], vocab)
    if not len(where):
        return
    lengths = [len(e.seen) for e in edits]

    def spread(values: list[float]) -> Any:
        return place(np.repeat(np.array(values, np.float32), lengths))

    at = place(where)
    outputs = place(np.concatenate([e.outputs for e in edits]))
    values, repetition = flat[at], spread([e.repetition for e in edits])
    positive = values > 0
    penalised = values * repetition
    penalised[positive] = values[positive] / repetition[positive]
    penalised = penalised - spread([e.frequency for e in edits]) * outputs
    flat[at] = penalised - spread([e.presence for e in edits]) * (outputs > 0)


def _places(ids: list[npt.NDArray[np.int64]], vocab: int) -> npt.NDArray[np.int64]:
    """Places in the flattened logits of each row's ids, row by row."""
    rows = np.repeat(np.arange(len(ids), dtype=np.int64), [len(row) for row in ids])
    places: npt.NDArray[np.int64] = rows * vocab + np.concatenate(ids)
    return places
