"""Check the C++ kernels on this machine: are they right, and are their rows independent?"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from headrace.kernels.operators import AttentionShape
from headrace.kernels.rope import rope_tables
from headrace.kernels.self_check import Check

ROWS_OUT, ROWS_IN, ROWS = 192, 576, 150
SHAPE = AttentionShape(heads=6, kv_heads=2, head_dim=64)
BLOCK_SIZE = 16
ENDS = (1, 5, 64, 130, 300, 560)  # contexts, the last one computed from its middle on
# Fraction of the largest element. Products: of roundings to 8 bits, blocks of 64 or 32 at a time.
PRODUCT_TOLERANCE = 2e-2
ATTENTION_TOLERANCE = 2e-2
PIECES = ((0, 1), (7, 1), (3, 2), (10, 3), (0, 17), (40, 64), (1, 149))


def check_native(cpu: ModuleType, kind: str, cache_format: str = "bf16") -> list[Check]:
    """Run products and attention on made-up data, alone and in company. A second at most."""
    return [*_check_products(cpu, kind), *_check_attention(cpu, cache_format)]


def _check_products(cpu: ModuleType, kind: str) -> list[Check]:
    random = np.random.default_rng(1)
    x = random.standard_normal((ROWS, ROWS_IN), dtype=np.float32)
    blocks = random.integers(0, 256, (ROWS_OUT, ROWS_IN // 32, 20), dtype=np.uint8)
    scales = np.array([0.01, -0.08], dtype=np.float16).view(np.uint8)
    blocks[:, :, :4] = scales  # Q4_1: a scale and a minimum, then 32 values of 4 bits
    weight = cpu.Weight.pack(kind, [("Q4_1", blocks.reshape(ROWS_OUT, -1))])
    exact = x.astype(np.float64) @ weight.dense().T.astype(np.float64)
    together = cpu.product(weight, x)
    differing = [
        count
        for first, count in PIECES
        if not np.array_equal(cpu.product(weight, x[first : first + count].copy()),
                              together[first : first + count])
    ]  # fmt: skip
    return [
        _close(f"{kind} products are right", together, exact, PRODUCT_TOLERANCE),
        _independent(f"a row's {kind} product is the same in any batch", differing, "rows"),
    ]


class _Sequences:
    """Rotated queries, and a cache that holds the keys and values of some sequences."""

    def __init__(self, cpu: ModuleType, cache_format: str) -> None:
        self.cpu = cpu
        random = np.random.default_rng(2)
        self.shape = cpu.AttentionShape(
            cache_format, SHAPE.heads, SHAPE.kv_heads, SHAPE.head_dim, BLOCK_SIZE
        )
        counts = [-(-end // BLOCK_SIZE) for end in ENDS]
        blocks = random.permutation(sum(counts)).astype(np.int32)
        self.tables = np.split(blocks, np.cumsum(counts)[:-1])
        rows = len(blocks) * SHAPE.kv_heads
        width = cpu.cache_row_bytes(cache_format, BLOCK_SIZE, SHAPE.head_dim)
        self.keys, self.values = np.zeros((2, 1, rows * width), dtype=np.uint8)
        rope = rope_tables([1.0 / (i + 1) for i in range(SHAPE.head_dim // 2)], max(ENDS))
        self.cos, self.sin = rope.cos.numpy(), rope.sin.numpy()
        heads = SHAPE.heads + 2 * SHAPE.kv_heads
        self.qkv = [
            random.standard_normal((end, heads * SHAPE.head_dim), dtype=np.float32) for end in ENDS
        ]
        self.queries = [self._store(i) for i in range(len(ENDS))]

    def _store(self, i: int) -> Any:
        positions = np.arange(ENDS[i], dtype=np.int32)
        slots = self.tables[i][positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        return self.cpu.rotate_store(
            self.shape, self.qkv[i], positions, slots.astype(np.int32), self.cos, self.sin,
            self.keys, self.values,
        )  # fmt: skip

    def first(self, i: int) -> int:
        """The first row that is computed of a sequence: all but the last one decode."""
        return ENDS[i] - 1 if i + 1 < len(ENDS) else ENDS[i] // 2

    def attend(self, wanted: list[int]) -> list[Any]:
        starts = [self.first(i) for i in wanted]
        lengths = [ENDS[i] - self.first(i) for i in wanted]
        counts = [len(self.tables[i]) for i in wanted]
        queries = np.concatenate([self.queries[i][self.first(i) :] for i in wanted])

        def ints(values: Any) -> Any:
            return np.asarray(values, dtype=np.int32)

        out = self.cpu.attend(
            self.shape, queries, ints(starts), ints(lengths), ints(np.cumsum([0, *lengths[:-1]])),
            ints(np.cumsum([0, *counts[:-1]])), np.concatenate([self.tables[i] for i in wanted]),
            self.keys, self.values,
        )  # fmt: skip
        return np.split(out, np.cumsum(lengths)[:-1])

    def exact(self, i: int) -> Any:
        """Softmax attention in float64: [rows, H * D]."""
        dim, heads, kv_heads = SHAPE.head_dim, SHAPE.heads, SHAPE.kv_heads
        x = self.qkv[i].astype(np.float64).reshape(ENDS[i], -1, dim)
        cos, sin = self.cos[: ENDS[i], None], self.sin[: ENDS[i], None]
        rotated = x * cos + np.roll(x, dim // 2, -1) * sin
        q = rotated[self.first(i) :, :heads].transpose(1, 0, 2)
        k = rotated[:, heads : heads + kv_heads].transpose(1, 2, 0).repeat(SHAPE.group, 0)
        v = x[:, heads + kv_heads :].transpose(1, 0, 2).repeat(SHAPE.group, 0)
        scores = q @ k / np.sqrt(dim)
        row = np.arange(self.first(i), ENDS[i])[:, None]
        scores[:, np.arange(ENDS[i]) > row] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)


def _check_attention(cpu: ModuleType, cache_format: str) -> list[Check]:
    sequences = _Sequences(cpu, cache_format)
    everyone = list(range(len(ENDS)))
    together = sequences.attend(everyone)
    exact = np.concatenate([sequences.exact(i) for i in everyone])
    differing = [
        ENDS[i] for i in everyone if not np.array_equal(sequences.attend([i])[0], together[i])
    ]
    return [
        _close("attention is right", np.concatenate(together), exact, ATTENTION_TOLERANCE),
        _independent("a row's attention is the same in any batch", differing, "tokens of context"),
    ]


def _close(name: str, found: Any, exact: Any, tolerance: float) -> Check:
    error = float(np.abs(found - exact).max() / np.abs(exact).max())
    return Check(name, error <= tolerance, f"largest error {error:.1e}, allowed {tolerance:.0e}")


def _independent(name: str, differing: list[int], unit: str) -> Check:
    if differing:
        return Check(name, False, f"differs at {', '.join(map(str, differing))} {unit}")
    return Check(name, True, "bit for bit")
