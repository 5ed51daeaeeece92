"""Operands that make a product show the order of its sums."""

from __future__ import annotations

import torch

SPREAD = 8


def cancelling_rows(
    rows: int,
    columns: int,
    size: int,
    dtype: torch.dtype,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """x [rows, size] and w [columns, size] with x w^T = 0 but for the rounding of its sums.

    Every product occurs twice with opposite signs, at random places. Two kernels that add in
    different orders then disagree in most elements, also after rounding to bfloat16, where with
    ordinary operands nearly all would look the same. (With the halves in the same order a kernel
    that sums them apart would cancel exactly, and show nothing.) The products differ in size by
    up to 2^16: short sums of bfloat16 products of one size need no rounding at all.
    """
    generator = torch.Generator(device).manual_seed(seed)
    order = torch.randperm(size, generator=generator, device=device)
    x = torch.randn(rows, size // 2, generator=generator, device=device)
    powers = torch.randint(-SPREAD, SPREAD + 1, x.shape, generator=generator, device=device)
    x = torch.ldexp(x, powers)
    w = torch.randn(columns, size // 2, generator=generator, device=device)
    odd = size % 2
    x = torch.cat((x, -x, x[:, :odd]), 1)[:, order]
    w = torch.cat((w, w, 0 * w[:, :odd]), 1)[:, order]
    return x.to(dtype).contiguous(), w.to(dtype).contiguous()
