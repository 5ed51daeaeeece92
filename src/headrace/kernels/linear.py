"""Packed matrix products whose rows do not depend on the call they are made in.

oneDNN picks its kernel by the shape of a call, and kernels differ in the order of their sums. So a
weight is only ever multiplied with row counts from a *ladder*: counts that a probe found to agree
bit for bit. Other counts are padded up to the next rung, larger ones are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch

from headrace.kernels.probe import cancelling_rows

RUNGS = (2, 4, 8, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
HEAD_RUNGS = (2, 4, 8, 16, 32, 48, 64, 96, 128)

Product = Callable[[torch.Tensor], torch.Tensor]


def has_packed(dtype: torch.dtype = torch.float32) -> bool:
    """True where torch was built with oneDNN's packed linear, and this CPU runs it in ``dtype``."""
    if not (torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return dtype is torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def on_ladder(product: Product, x: torch.Tensor, rungs: Sequence[int]) -> torch.Tensor:
    """``product`` of x [R, ..], called with row counts of ``rungs`` (ascending) only."""
    rows = x.shape[0]
    if rows in rungs:
        return product(x)
    top = rungs[-1]
    if rows > top:
        pieces = [on_ladder(product, x[i : i + top], rungs) for i in range(0, rows, top)]
        return torch.cat(pieces)
    rung = next(r for r in rungs if r > rows)
    filled = torch.cat((x, x.new_zeros(rung - rows, *x.shape[1:])))
    return product(filled)[:rows]


def ladder_rows(rows: int, rungs: Sequence[int]) -> int:
    """The fewest rows from ``rows`` on that are whole top rungs and one rung more, or none."""
    rest = rows % rungs[-1]
    return rows if rest == 0 else rows - rest + next(r for r in rungs if r >= rest)


class PackedLinear:
    """A weight [N, K] in oneDNN's blocked layout, with an optional bias [N].

    ``rungs`` are the row counts it may be called with; see the module's docstring.
    """

    __slots__ = ("_bias", "_weight", "format", "nbytes", "rows_in", "rows_out", "rungs")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.rows_out, self.rows_in = weight.shape
        self.nbytes = weight.nbytes + (0 if bias is None else bias.nbytes)
        self.format = str(weight.dtype).removeprefix("torch.")
        self.rungs: tuple[int, ...] = (1,)
        self._bias = None if bias is None else bias.to(weight.dtype)
        if has_packed(weight.dtype):
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)
        else:
            self._weight = weight.contiguous()

    def raw(self, x: torch.Tensor) -> torch.Tensor:
        """One call of the library, whatever its row count."""
        if self._weight.is_mkldnn:
            y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._weight, self._bias, "none", [], ""
            )
            return y
        return torch.nn.functional.linear(x, self._weight, self._bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [R, K] -> [R, N]; row r depends on x[r] only."""
        return on_ladder(self.raw, x, self.rungs)


class PackedHead(PackedLinear):
    """The output matrix: logits in float32, also where the weight is bfloat16.

    oneDNN rounds a bfloat16 product to 8 bits, which ties the likeliest tokens (logits of 25 lie
    an eighth apart). A second product with that result subtracted before rounding gives what was
    lost; the sum of both is good to about 16 bits, for the price of reading the matrix twice.
    """

    __slots__ = ()

    def raw(self, x: torch.Tensor) -> torch.Tensor:
        y = super().raw(x)
        if y.dtype is torch.float32:
            return y
        if not self._weight.is_mkldnn:
            whole: torch.Tensor = x.float() @ self._weight.float().T
            return whole
        lost: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, y, self._weight, None, "sub")
        return y.float().add_(lost)


def agreeing_rungs(product: Product, x: torch.Tensor, rungs: Sequence[int]) -> tuple[int, ...]:
    """The largest set of row counts for which ``product`` gives the same rows of ``x``.

    Of equally large sets one with 32 is preferred. ``x`` has at least ``max(rungs)`` rows.
    """
    classes: list[tuple[torch.Tensor, list[int]]] = []
    for rung in sorted(rungs, reverse=True):
        y = product(x[:rung].clone())
        for reference, members in classes:
            if torch.equal(y, reference[:rung]):
                members.append(rung)
                break
        else:
            classes.append((y, [rung]))
    best = max(classes, key=lambda entry: (len(entry[1]), 32 in entry[1]))
    return tuple(sorted(best[1]))


class OnLadder(Protocol):
    """A weight that is multiplied with certain row counts only."""

    @property
    def rungs(self) -> tuple[int, ...]: ...


def common_rungs(weights: Iterable[OnLadder]) -> tuple[int, ...]:
    """Row counts every weight may be called with, smallest first; empty when there are none."""
    common: set[int] | None = None
    for weight in weights:
        common = set(weight.rungs) if common is None else common & set(weight.rungs)
    return tuple(sorted(common or ()))


class RungTable:
    """Rungs by shape and number format, probed once each."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, torch.dtype], tuple[int, ...]] = {}

    def rungs(self, rows_out: int, rows_in: int, dtype: torch.dtype) -> tuple[int, ...]:
        """Probe a product of this shape on a weight made for it."""
        key = (rows_out, rows_in, dtype)
        if key not in self._known:
            x, weight = cancelling_rows(RUNGS[-1], rows_out, rows_in, dtype)
            self._known[key] = agreeing_rungs(PackedLinear(weight, None).raw, x, RUNGS)
        return self._known[key]

    def head_rungs(self, head: PackedHead, dtype: torch.dtype) -> tuple[int, ...]:
        """Probe the output head itself: too large to be packed a second time."""
        key = (head.rows_out, head.rows_in, dtype)
        if key not in self._known:
            generator = torch.Generator().manual_seed(head.rows_in)
            x = torch.randn(HEAD_RUNGS[-1], head.rows_in, generator=generator).to(dtype)
            self._known[key] = agreeing_rungs(head.raw, x, HEAD_RUNGS)
        return self._known[key]

    def describe(self) -> str:
        """One line: the row counts in use per shape."""
        return "; ".join(
            f"{n}x{k} {str(d).removeprefix('torch.')}: {r[0]}..{r[-1]} rows ({len(r)} sizes)"
            for (n, k, d), r in self._known.items()
        )
