"""Tables for rotary position embedding, in float32 whatever the weights are in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headrace.kernels.operators import RopeTables

if TYPE_CHECKING:
    import torch

Table = npt.NDArray[np.float32]


def rope_arrays(
    inverse_frequencies: Sequence[float], max_context: int, scale: float = 1.0
) -> tuple[Table, Table]:
    """cos and sin of position times frequency for positions below ``max_context``, [context, D].

    ``inverse_frequencies`` are radians per position of the pairs (i, i + D/2). ``scale`` multiplies
    both tables (YaRN's attention factor). The first half of sin is negated, so that a rotation is
    ``x * cos + swapped_halves(x) * sin`` (Su 2021, section 3.4.2).
    """
    frequencies = np.array(inverse_frequencies, dtype=np.float64)
    angles = np.arange(max_context, dtype=np.float64)[:, None] * frequencies
    cos = (np.cos(angles) * scale).astype(np.float32)
    sin = (np.sin(angles) * scale).astype(np.float32)
    return np.concatenate((cos, cos), 1), np.concatenate((-sin, sin), 1)


def rope_tables(
    inverse_frequencies: Sequence[float],
    max_context: int,
    scale: float = 1.0,
    device: torch.device | str = "cpu",
) -> RopeTables:
    """The arrays of ``rope_arrays`` as tensors on ``device``."""
    import torch

    tables = rope_arrays(inverse_frequencies, max_context, scale)
    cos, sin = (torch.from_numpy(table).to(device) for table in tables)
    return RopeTables(cos, sin)
