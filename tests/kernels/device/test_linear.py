"""Products on a device: right, the same for a row in calls of any size, at any place."""

from __future__ import annotations

import pytest
import torch

from headrace.kernels.device.linear import ROWS, DeviceHead, DeviceLinear, Ladders, steady_rows
from headrace.kernels.probe import cancelling_rows
from tests.support.devices import on_devices

DTYPES = (torch.float32, torch.bfloat16)


@on_devices
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(96, 64), (30, 33), (96, 150)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_row_does_not_depend_on_its_call(
    device: str, dtype: torch.dtype, shape: tuple[int, int], biased: bool
) -> None:
    x, weight = cancelling_rows(2600, *shape, dtype, seed=1, device=device)
    bias = torch.randn(shape[0], device=device) if biased else None
    product = DeviceLinear(weight, bias)
    product.rungs = Ladders(torch.device(device)).rungs(product)
    whole = product(x)
    for first, last in ((0, 1), (3, 5), (7, 24), (100, 165), (1, 600), (90, 2599)):
        assert torch.equal(product(x[first:last]), whole[first:last])


@on_devices
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_is_right(device: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    weight, bias, x = (torch.randn(s, generator=generator) for s in ((40, 24), (40,), (9, 24)))
    product = DeviceLinear(weight.to(device, dtype), bias.to(device))
    product.rungs = Ladders(torch.device(device)).rungs(product)
    x, weight, bias = (t.to(dtype).double() for t in (x, weight, bias))
    found = product(x.to(device, dtype)).cpu().double()
    assert (found - (x @ weight.T + bias)).abs().max() < 40 * torch.finfo(dtype).eps


@on_devices
def test_logits_of_bfloat16_are_finer_than_bfloat16(device: str) -> None:
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(500, 64, generator=generator).bfloat16()
    x = torch.randn(5, 64, generator=generator).bfloat16()
    head = DeviceHead(weight.to(device), None)
    head.rungs = Ladders(torch.device(device)).head_rungs(head)
    found = head(x.to(device))
    assert found.dtype is torch.float32
    exact = x.double() @ weight.double().T
    error = (found.cpu().double() - exact).abs().max() / exact.abs().max()
    assert error < 2.0**-15 < torch.finfo(torch.bfloat16).eps


def test_counts_that_depend_on_the_place_are_left_out() -> None:
    x, weight = cancelling_rows(ROWS[-1], 16, 64, torch.float32)
    one_bit = 1 + torch.finfo(torch.float32).eps

    def crooked(x: torch.Tensor) -> torch.Tensor:
        """As a kernel with another order of sums in its last tile."""
        y = x @ weight.T + 1.0
        if len(x) == 24:
            y[16:] *= one_bit
        return y * one_bit if len(x) in (2, 512) else y

    counts = set(steady_rows(crooked, x, ROWS))
    assert 32 in counts
    assert not counts & {24, 2, 512}
