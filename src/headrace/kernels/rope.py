"""Tables for rotary position embedding, in float32 whatever the weights are in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from headrace.kernels.operators import RopeTables


def rope_tables(
    inverse_frequencies: Sequence[float],
    max_context: int,
    scale: float = 1.0,
    device: torch.device | str = "cpu",
) -> RopeTables:
    """cos and sin of position times frequency for positions below ``max_context``.

    ``inverse_frequencies`` are radians per position of the pairs (i, i + D/2). ``scale`` multiplies
    both tables (YaRN's attention factor). The first half of sin is negated, so that a rotation is
    ``x * cos + swapped_halves(x) * sin`` (Su 2021, section 3.4.2).
    """
    frequencies = torch.tensor(inverse_frequencies, dtype=torch.float64)
    angles = torch.arange(max_context, dtype=torch.float64)[:, None] * frequencies
    cos, sin = (angles.cos() * scale).float(), (angles.sin() * scale).float()
    tables = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    return RopeTables(tables[0].to(device), tables[1].to(device))
