"""Matrix products whose rows do not depend on the call, on a library that promises nothing.

cuBLAS picks a kernel by the shape of a call, and kernels differ in the order of their sums. So a
weight is only multiplied with row counts from a ladder, all of which a probe on this very device
found to agree bit for bit, and to treat every place among the rows alike. No call is ever made
with a shape that was not probed (see kernels/linear.py, which does the same with oneDNN).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from headrace.kernels.linear import Product, agreeing_rungs, on_ladder
from headrace.kernels.probe import cancelling_rows

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
HEAD_ROWS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256)


class DeviceLinear:
    """A weight [N, K] with an optional bias [N], both on a device in one number format.

    ``rungs`` are the row counts it may be called with.
    """

    __slots__ = ("bias", "format", "nbytes", "rows_in", "rows_out", "rungs", "weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.rows_out, self.rows_in = weight.shape
        self.weight = weight.contiguous()
        self.bias = None if bias is None else bias.to(weight.dtype)
        self.nbytes = weight.nbytes + (0 if self.bias is None else self.bias.nbytes)
        self.format = str(weight.dtype).removeprefix("torch.")
        self.rungs: tuple[int, ...] = (1,)

    def raw(self, x: torch.Tensor) -> torch.Tensor:
        """One call of the library, whatever its row count."""
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [R, K] -> [R, N] in x's format; row r depends on x[r] only."""
        return on_ladder(self.raw, x, self.rungs)


class DeviceHead(DeviceLinear):
    """The output matrix: logits in float32, also where the weight is bfloat16."""

    __slots__ = ()

    def raw(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight.dtype is torch.float32:
            return super().raw(x)
        columns = self.weight.T
        if x.device.type == "cuda" and hasattr(torch.ops.aten.mm, "dtype"):
            return torch.mm(x, columns, out_dtype=torch.float32)
        # Elsewhere results come rounded to the weight's format. What a second product with the
        # first result taken off finds was lost in rounding: both together have about 16 bits.
        y = torch.mm(x, columns)
        return y.float().add_(torch.addmm(y, x, columns, beta=-1.0))


def steady_rows(product: Product, x: torch.Tensor, rows: Sequence[int]) -> tuple[int, ...]:
    """The largest set of row counts that agree on x, each giving a row the same bits at any place.

    ``x`` has at least ``max(rows)`` rows. Where no count is the same at any place the places are
    left out of account: the self-check of the operators then tells.
    """
    steady = [count for count in rows if _same_anywhere(product, x[:count])]
    return agreeing_rungs(product, x, steady or rows)


def _same_anywhere(product: Product, x: torch.Tensor) -> bool:
    expected = product(x.clone())
    shifts = {1, len(x) // 2, len(x) - 1} - {0}
    return all(torch.equal(product(x.roll(by, 0)), expected.roll(by, 0)) for by in shifts)


class Ladders:
    """Row counts by shape and number format, probed once each."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: dict[tuple[int, int, torch.dtype, bool], tuple[int, ...]] = {}

    def rungs(self, like: DeviceLinear) -> tuple[int, ...]:
        """Probe a product of this shape and format on a weight made for it."""
        dtype, biased = like.weight.dtype, like.bias is not None
        key = (like.rows_out, like.rows_in, dtype, biased)
        if key not in self._known:
            x, weight = cancelling_rows(
                ROWS[-1], like.rows_out, like.rows_in, dtype, device=self._device
            )
            # a bias may take another kernel; of zeros it leaves the products cancelled
            bias = weight.new_zeros(like.rows_out) if biased else None
            self._known[key] = steady_rows(DeviceLinear(weight, bias).raw, x, ROWS)
        return self._known[key]

    def head_rungs(self, head: DeviceHead) -> tuple[int, ...]:
        """Probe the output head itself: too large to be made a second time."""
        key = (head.rows_out, head.rows_in, head.weight.dtype, False)
        if key not in self._known:
            generator = torch.Generator(self._device).manual_seed(head.rows_in)
            shape = (HEAD_ROWS[-1], head.rows_in)
            x = torch.randn(shape, generator=generator, device=self._device)
            self._known[key] = steady_rows(head.raw, x.to(head.weight.dtype), HEAD_ROWS)
        return self._known[key]

    def describe(self) -> str:
        """The row counts in use per shape, in one line."""
        return "; ".join(
            f"{n}x{k}{' + bias' if biased else ''}: {r[0]}..{r[-1]} rows ({len(r)} sizes)"
            for (n, k, _, biased), r in self._known.items()
        )
