"""TorchChooser: the reference, for any device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from headrace.kernels.operators import Logits
from headrace.sampling.chooser import UNSOUND, Columns, Top
from headrace.sampling.draw import draw, select
from headrace.sampling.draws import Draws
from headrace.sampling.logprobs import log_probabilities
from headrace.sampling.penalties import Edit, apply
from headrace.sampling.random import uniforms
from headrace.sampling.ranking import arg_max

# Logits worked on at once, so that temporary copies stay small and near the cores.
_BLOCK_LOGITS = 1 << 20


class TorchChooser:
    """Chooses with torch operators."""

    name = "torch"

    @torch.inference_mode()
    def most_likely(self, logits: Logits) -> list[int]:
        peaks, ids = arg_max(_tensor(logits))
        tokens: list[int] = ids.tolist()
        if not bool(peaks.isfinite().all()):
            for r, sound in enumerate(peaks.isfinite().tolist()):
                if not sound:
                    tokens[r] = UNSOUND
        return tokens

    @torch.inference_mode()
    def choose(
        self,
        logits: Logits,
        rows: list[int],
        columns: Columns,
        positions: list[int],
        edits: list[Edit] | None = None,
    ) -> list[int]:
        tokens: list[int] = []
        for places in _parts(len(rows), logits.shape[-1]):
            chosen = [rows[i] for i in places]
            if edits is None:
                part = select(_tensor(logits), chosen)
                tokens.extend(_choose_part(part, places, columns, positions))
                continue
            part = _tensor(logits)[torch.tensor(chosen, device=logits.device)]
            sound = arg_max(part)[0].isfinite().tolist()
            apply(part, [edits[i] for i in places])
            drawn = _choose_part(part, places, columns, positions)
            tokens.extend(t if s else UNSOUND for t, s in zip(drawn, sound, strict=True))
        return tokens

    @torch.inference_mode()
    def log_probabilities(
        self, logits: Logits, rows: list[int], chosen: list[int], counts: list[int]
    ) -> list[tuple[float, Top]]:
        found: list[tuple[float, Top]] = []
        for places in _parts(len(rows), logits.shape[-1]):
            part = select(_tensor(logits), [rows[i] for i in places])
            own, most = [chosen[i] for i in places], [counts[i] for i in places]
            found.extend(log_probabilities(part, own, most))
        return found


def _choose_part(
    logits: Tensor, places: range, columns: Columns, positions: list[int]
) -> list[int]:
    peaks, ids = arg_max(logits)
    sound = peaks.isfinite().tolist()
    tokens: list[int] = ids.tolist()
    drawn = []
    for r, place in enumerate(places):
        if not sound[r]:
            tokens[r] = UNSOUND
        elif columns.temperature[place] > 0:
            drawn.append(r)
    if drawn:
        where = [places[r] for r in drawn]
        how = _draws(select(peaks, drawn), columns, where, [positions[p] for p in where])
        for r, token in zip(drawn, draw(select(logits, drawn), how), strict=True):
            tokens[r] = token
    return tokens


def _tensor(logits: Logits) -> Tensor:
    """The same memory."""
    return torch.from_numpy(logits) if isinstance(logits, np.ndarray) else logits


def _parts(count: int, vocab: int) -> list[range]:
    size = max(1, _BLOCK_LOGITS // vocab)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _draws(peaks: Tensor, columns: Columns, where: list[int], positions: list[int]) -> Draws:
    """How the rows at ``where`` in the columns are drawn, whose largest logits are ``peaks``."""
    uniform = uniforms(columns.streams[where], positions)
    device = peaks.device
    return Draws(
        peak=peaks,
        temperature=torch.from_numpy(columns.temperature[where]).to(device),
        top_k=torch.from_numpy(columns.top_k[where]).to(device),
        top_p=torch.from_numpy(columns.top_p[where]).to(device),
        min_p=torch.from_numpy(columns.min_p[where]).to(device),
        uniform=torch.from_numpy(uniform).to(device),
    )
