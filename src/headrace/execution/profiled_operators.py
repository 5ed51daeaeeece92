"""ProfiledOperators: operators that note when each call began and ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from headrace.execution.profile import NO_LAYER, Profile
from headrace.kernels.layout import Layout
from headrace.kernels.operators import (
    Activation,
    AttentionShape,
    HeadNorms,
    LayerCache,
    Operators,
    RopeTables,
    Weight,
)

T = TypeVar("T")


class ProfiledOperators:
    """Operators that book the time of each call in a profile; the same results.

    Each layer ends with the second of its two products that add to the residual. On a device that
    works through a queue each call waits for its end, which makes a step longer.
    """

    def __init__(self, inner: Operators, profile: Profile, layers: int) -> None:
        self._inner, self._profile, self._layers = inner, profile, layers
        self._sums = 0
        self.name, self.device = inner.name, inner.device
        self.weight_dtype, self.cache_dtype = inner.weight_dtype, inner.cache_dtype

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Weight:
        return self._inner.pack(weight, bias)

    def pack_gated(
        self,
        gate: torch.Tensor,
        up: torch.Tensor,
        gate_bias: torch.Tensor | None = None,
        up_bias: torch.Tensor | None = None,
    ) -> Weight:
        return self._inner.pack_gated(gate, up, gate_bias, up_bias)

    def pack_head(self, weight: torch.Tensor) -> Weight:
        return self._inner.pack_head(weight)

    def padded_rows(self, rows: int) -> int:
        return self._inner.padded_rows(rows)

    def prepare(self, layout: Layout, shape: AttentionShape, rope: RopeTables) -> Any:
        self._sums = 2 * self._layers
        return self._time("prepare", lambda: self._inner.prepare(layout, shape, rope))

    def embed(self, table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        result = self._time("embed", lambda: self._inner.embed(table, tokens))
        self._sums = 0
        return result

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        return self._time("norm", lambda: self._inner.norm(x, weight, eps))

    def linear(self, x: Activation, weight: Any) -> torch.Tensor:
        return self._time("linear qkv", lambda: self._inner.linear(x, weight))

    def linear_add(self, x: Activation, weight: Any, residual: torch.Tensor) -> torch.Tensor:
        name = "linear down" if self._sums % 2 else "linear out"
        result = self._time(name, lambda: self._inner.linear_add(x, weight, residual))
        self._sums += 1
        return result

    def gated_linear(self, x: Activation, weight: Any) -> Activation:
        return self._time("linear gate, up", lambda: self._inner.gated_linear(x, weight))

    def rotate_store(
        self, qkv: torch.Tensor, cache: LayerCache, prepared: Any, norms: HeadNorms | None
    ) -> torch.Tensor:
        return self._time(
            "rotate, store", lambda: self._inner.rotate_store(qkv, cache, prepared, norms)
        )

    def attention(self, q: torch.Tensor, cache: LayerCache, prepared: Any) -> Activation:
        return self._time("attention", lambda: self._inner.attention(q, cache, prepared))

    def head(self, x: Activation, weight: Any) -> torch.Tensor:
        return self._time("head", lambda: self._inner.head(x, weight))

    def _time(self, name: str, call: Callable[[], T]) -> T:
        layer = self._sums // 2
        start = time.monotonic_ns()
        result = call()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        end = time.monotonic_ns()
        self._profile.book(name, start, end, layer if layer < self._layers else NO_LAYER)
        return result
