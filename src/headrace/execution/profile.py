"""Where the time of steps goes, by operator."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

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


@dataclass(slots=True)
class Profile:
    """Seconds and calls by operator, summed over ``steps`` steps of ``rows`` rows in total.

    ``seconds`` also has ``layout`` and ``sampling``; what is left of ``elapsed`` is ``other``.
    """

    steps: int = 0
    rows: int = 0
    elapsed: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def book(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.calls[name] = self.calls.get(name, 0) + 1

    def book_spans(self, spans: Sequence[tuple[str, int, int, int]]) -> None:
        """Add (operator, layer, start, end) in nanoseconds."""
        for name, _, start, end in spans:
            self.book(name, (end - start) * 1e-9)

    def timed(self, name: str, call: Callable[[], T]) -> T:
        """The result of ``call``, its time booked under ``name``."""
        start = time.perf_counter()
        result = call()
        self.book(name, time.perf_counter() - start)
        return result

    def table(self) -> list[tuple[str, float, float, int]]:
        """(operator, milliseconds a step, share of the step, calls a step), largest first."""
        steps, total = max(self.steps, 1), max(self.elapsed, 1e-9)
        entries = [
            (name, 1e3 * seconds / steps, seconds / total, round(self.calls[name] / steps))
            for name, seconds in self.seconds.items()
        ]
        rest = self.elapsed - sum(self.seconds.values())
        entries.append(("other", 1e3 * rest / steps, rest / total, 0))
        return sorted(entries, key=lambda entry: -entry[1])


class ProfiledOperators:
    """Operators that book the time of each call; the same results."""

    def __init__(self, inner: Operators, profile: Profile) -> None:
        self._inner, self._profile = inner, profile
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
        return self._time("prepare", lambda: self._inner.prepare(layout, shape, rope))

    def embed(self, table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self._time("embed", lambda: self._inner.embed(table, tokens))

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        return self._time("norm", lambda: self._inner.norm(x, weight, eps))

    def linear(self, x: Activation, weight: Any) -> torch.Tensor:
        return self._time("linear qkv", lambda: self._inner.linear(x, weight))

    def linear_add(self, x: Activation, weight: Any, residual: torch.Tensor) -> torch.Tensor:
        name = "linear down" if weight.rows_in > weight.rows_out else "linear out"
        return self._time(name, lambda: self._inner.linear_add(x, weight, residual))

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
        return self._profile.timed(name, call)
