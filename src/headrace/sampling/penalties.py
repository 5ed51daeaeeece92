"""Changes to logits before a token is chosen: penalties, biases, suppressed tokens.

``Edit`` gathers one row's changes; ``apply`` makes those of all rows at once. A mask of the
tokens that a grammar allows would be one more field here.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


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


def apply(logits: Tensor, edits: Rows[Edit]) -> None:
    """Change contiguous float32 logits [R, V] in place, row r by ``edits[r]``; ids are below V."""
    flat = logits.view(-1)
    vocab = logits.shape[-1]
    _penalise(flat, vocab, edits)
    places = _places([e.bias_ids for e in edits], vocab)
    if len(places):
        where = torch.from_numpy(places).to(logits.device)
        added = np.concatenate([e.biases for e in edits])
        flat[where] = flat[where] + torch.from_numpy(added).to(logits.device)
    places = _places([e.suppressed for e in edits], vocab)
    if len(places):
        flat[torch.from_numpy(places).to(logits.device)] = -torch.inf


def _penalise(flat: Tensor, vocab: int, edits: Rows[Edit]) -> None:
    places = _places([e.seen for e in edits], vocab)
    if not len(places):
        return
    lengths = [len(e.seen) for e in edits]

    def spread(values: list[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(values, np.float32), lengths)).to(flat.device)

    where = torch.from_numpy(places).to(flat.device)
    outputs = torch.from_numpy(np.concatenate([e.outputs for e in edits])).to(flat.device)
    values = flat[where]
    repetition = spread([e.repetition for e in edits])
    values = torch.where(values > 0, values / repetition, values * repetition)
    values = values - spread([e.frequency for e in edits]) * outputs
    flat[where] = values - spread([e.presence for e in edits]) * (outputs > 0)


def _places(ids: list[npt.NDArray[np.int64]], vocab: int) -> npt.NDArray[np.int64]:
    """Places in the flattened logits of each row's ids, row by row."""
    rows = np.repeat(np.arange(len(ids), dtype=np.int64), [len(row) for row in ids])
    places: npt.NDArray[np.int64] = rows * vocab + np.concatenate(ids)
    return places
