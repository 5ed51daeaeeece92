"""Packed products: right, and the same for a row in calls of any size."""

from __future__ import annotations

import pytest
import torch

from headrace.kernels.linear import (
    RUNGS,
    PackedHead,
    PackedLinear,
    RungTable,
    agreeing_rungs,
    common_rungs,
)
from headrace.kernels.probe import cancelling_rows

DTYPES = (torch.float32, torch.bfloat16)
SHAPES = ((96, 64), (30, 33), (576, 576), (192, 1536))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_does_not_depend_on_its_call(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, weight = cancelling_rows(1100, *shape, dtype, seed=1)
    product = PackedLinear(weight, None)
    product.rungs = RungTable().rungs(*shape, dtype)
    whole = product(x)
    for first, last in ((0, 1), (3, 5), (7, 24), (100, 165), (1, 600), (90, 1099)):
        assert torch.equal(product(x[first:last]), whole[first:last])


@pytest.mark.parametrize("bias", [False, True])
def test_the_product_is_right(bias: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(40, 24, generator=generator)
    offset = torch.randn(40, generator=generator) if bias else None
    product = PackedLinear(weight, offset)
    product.rungs = RungTable().rungs(40, 24, torch.float32)
    x = torch.randn(9, 24)
    expected = x.double() @ weight.double().T + (0.0 if offset is None else offset.double())
    assert torch.allclose(product(x).double(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(576, torch.float32), (33, torch.float32), (576, torch.bfloat16), (33, torch.bfloat16)],
)
def test_probes_cancel_so_that_orders_of_summation_show(size: int, dtype: torch.dtype) -> None:
    x, weight = cancelling_rows(32, 64, size, dtype)
    assert (x.double() @ weight.double().T).abs().max() < 1e-10
    products = x[:, None].float() * weight.float()
    forwards = products.cumsum(-1, dtype=torch.float32)[..., -1].to(dtype)
    halves = products[..., ::2].sum(-1) + products[..., 1::2].sum(-1)
    assert (forwards != halves.to(dtype)).float().mean() > 0.2


def test_a_product_that_changes_its_order_is_split_into_classes() -> None:
    generator = torch.Generator().manual_seed(6)
    x, weight = (torch.randn(n, 64, generator=generator) for n in (RUNGS[-1], 16))

    def moody(x: torch.Tensor) -> torch.Tensor:
        if len(x) <= 32:
            return (x.double() @ weight.T.double()).float() + 1e-6
        return (x.double() @ weight.T.double()).float()

    assert agreeing_rungs(moody, x, RUNGS) == tuple(r for r in RUNGS if r > 32)
    assert agreeing_rungs(moody, x, (2, 4, 8, 16, 32, 64)) == (2, 4, 8, 16, 32)
    assert agreeing_rungs(moody, x, (32, 64)) == (32,)


def test_common_rungs() -> None:
    first, second = PackedLinear(torch.ones(4, 2), None), PackedLinear(torch.ones(2, 4), None)
    first.rungs, second.rungs = (2, 4, 8, 64), (4, 16, 64)
    assert common_rungs([first, second]) == (4, 64)
    assert common_rungs([]) == ()
    second.rungs = (3,)
    assert common_rungs([first, second]) == ()


def test_head_keeps_the_logits_that_bfloat16_would_round_away() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = (torch.randn(512, 192, generator=generator) * 0.05).bfloat16()
    x = (torch.randn(8, 192, generator=generator) * 30).bfloat16()
    exact = x.double() @ weight.double().T
    rounded = (PackedLinear(weight, None).raw(x).double() - exact).abs().max()
    kept = PackedHead(weight, None).raw(x)
    assert kept.dtype is torch.float32
    assert (kept.double() - exact).abs().max() < rounded / 50
