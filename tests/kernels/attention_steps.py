"""Sequences of random tokens whose attention the C++ kernels compute, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from headrace.kernels.extension import load_extension

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]

cpu = load_extension().module
NAMES = ("avx512_bf16", "avx512_vnni", "avx512", "avx2_vnni", "avx2", "portable")
POSITIONS = 4096


def runs(name: str) -> bool:
    """Whether this processor runs the build of the kernels with this name."""
    assert cpu is not None
    shape = cpu.AttentionShape("bf16", 1, 1, 16, 16)
    zeros = np.zeros((1, 3 * 16), np.float32)
    index, table = np.zeros(1, np.int32), np.ones((1, 16), np.float32)
    keys = np.zeros((1, shape.row_bytes), np.uint8)
    try:
        cpu.rotate_store(shape, zeros, index, index, table, table, keys, keys.copy(), kernels=name)
    except ValueError:
        return False
    return True


BUILDS = [name for name in NAMES if cpu is not None and runs(name)]


def to_bf16(x: Floats) -> Words:
    """Bits of the nearest bfloat16, ties to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(x: Words) -> Floats:
    return (x.astype(np.uint32) << 16).view(np.float32)


def rope(dim: int) -> tuple[Floats, Floats]:
    """cos and sin [POSITIONS, dim], the first half of sin negated."""
    angles = np.arange(POSITIONS)[:, None] * 10000.0 ** (-np.arange(dim // 2) / (dim // 2))
    cos, sin = np.cos(angles), np.sin(angles)
    pairs = np.concatenate((cos, cos), 1), np.concatenate((-sin, sin), 1)
    return pairs[0].astype(np.float32), pairs[1].astype(np.float32)


@dataclass(frozen=True, slots=True)
class Heads:
    """Sizes of an attention. ``norm``: whether heads are normalised, as in Qwen3."""

    kv: int = 3
    group: int = 3
    dim: int = 64
    format: str = "bf16"
    norm: bool = False

    @property
    def query(self) -> int:
        return self.kv * self.group


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens [first, last) of a sequence, to be rows of a step."""

    sequence: int
    first: int
    last: int


@dataclass
class Sequences:
    """Sequences of given lengths, and a cache with scattered blocks that holds stale numbers.

    The tokens depend on the heads, the sequence's number and the seed only, never on the paging.
    """

    heads: Heads
    lengths: Sequence[int]
    block_size: int = 16
    seed: int = 0
    kernels: str | None = None
    output: str = "float32"
    stale: float = 3.0
    qkv: list[Floats] = field(init=False)
    tables: list[npt.NDArray[np.int32]] = field(init=False)
    keys: Bytes = field(init=False)
    values: Bytes = field(init=False)
    norms: Floats | None = field(init=False)

    def __post_init__(self) -> None:
        h = self.heads
        width = (h.query + 2 * h.kv) * h.dim
        draw = [np.random.default_rng((self.seed, i)) for i in range(len(self.lengths))]
        self.qkv = [
            (2 * rng.standard_normal((n, width))).astype(np.float32)
            for rng, n in zip(draw, self.lengths, strict=True)
        ]
        rng = np.random.default_rng((self.seed, 1000, self.block_size))
        self.norms = None
        if h.norm:
            weights = np.random.default_rng(self.seed).uniform(0.5, 1.5, (h.query + h.kv, h.dim))
            self.norms = weights.astype(np.float32)
        counts = [-(-n // self.block_size) for n in self.lengths]
        blocks = rng.permutation(sum(counts) + 3).astype(np.int32)
        ends = np.cumsum(counts)
        self.tables = [blocks[e - c : e] for e, c in zip(ends, counts, strict=True)]
        self.shape = cpu.AttentionShape(h.format, h.query, h.kv, h.dim, self.block_size)
        size = len(blocks) * h.kv * self.shape.row_bytes
        self.keys, self.values = (self._garbage(rng, size) for _ in range(2))

    def _garbage(self, rng: np.random.Generator, size: int) -> Bytes:
        if self.heads.format == "bf16":
            noise = (self.stale * rng.standard_normal(size // 2)).astype(np.float32)
            return to_bf16(noise).view(np.uint8)[None].copy()
        rows = rng.integers(0, 255, (size // self.shape.row_bytes, self.shape.row_bytes), np.uint8)
        scales = rng.uniform(0, self.stale, (len(rows), self.block_size)).astype(np.float32)
        rows[:, : 4 * self.block_size] = scales.view(np.uint8)
        return rows.reshape(1, -1)

    def store(self, parts: Sequence[Part]) -> Words:
        """Write the parts' keys and values; their queries [rows, heads * D]."""
        h = self.heads
        qkv = np.concatenate([self.qkv[p.sequence][p.first : p.last] for p in parts])
        positions = np.concatenate([np.arange(p.first, p.last) for p in parts]).astype(np.int32)
        slots = np.concatenate([self._slots(p) for p in parts]).astype(np.int32)
        cos, sin = rope(h.dim)
        queries: Words = cpu.rotate_store(
            self.shape, qkv, positions, slots, cos, sin, self.keys, self.values,
            norm_weights=self.norms, norm_eps=1e-6, kernels=self.kernels,
        )  # fmt: skip
        return queries

    def _slots(self, part: Part) -> npt.NDArray[np.int64]:
        at = np.arange(part.first, part.last)
        table = self.tables[part.sequence].astype(np.int64)
        return table[at // self.block_size] * self.block_size + at % self.block_size

    def attend(self, parts: Sequence[Part], queries: Words) -> Floats:
        """Attention of the parts' rows: [rows, heads * D]."""
        tables = [self.tables[p.sequence] for p in parts]
        lengths = np.array([p.last - p.first for p in parts], np.int32)
        begins = np.cumsum([0, *(len(t) for t in tables[:-1])]).astype(np.int32)
        out: Floats = cpu.attend(
            self.shape, queries, np.array([p.first for p in parts], np.int32), lengths,
            np.cumsum([0, *lengths[:-1]]).astype(np.int32), begins, np.concatenate(tables),
            self.keys, self.values, output=self.output, kernels=self.kernels,
        )  # fmt: skip
        return out

    def run(self, steps: Sequence[Sequence[Part]]) -> list[Floats]:
        """Results of every sequence's rows, computed in these steps."""
        width = self.heads.query * self.heads.dim
        results = [np.full((n, width), np.nan, np.float32) for n in self.lengths]
        for parts in steps:
            out, row = self.attend(parts, self.store(parts)), 0
            for p in parts:
                results[p.sequence][p.first : p.last] = out[row : row + p.last - p.first]
                row += p.last - p.first
        return results

    def at_once(self) -> list[Floats]:
        """Results of all sequences, each in one part, all in one step."""
        return self.run([[Part(i, 0, n) for i, n in enumerate(self.lengths)]])

    def rotated(self, sequence: int) -> tuple[Doubles, Doubles, Doubles]:
        """Queries / sqrt(D) [T, H, D], keys and values [T, K, D] in float64, unrounded."""
        h, x = self.heads, self.qkv[sequence].astype(np.float64)
        x = x.reshape(len(x), -1, h.dim)
        qk, v = x[:, : h.query + h.kv], x[:, h.query + h.kv :]
        if self.norms is not None:
            qk = qk / np.sqrt((qk**2).mean(-1, keepdims=True) + 1e-6) * self.norms
        cos, sin = (t[: len(x), None].astype(np.float64) for t in rope(h.dim))
        qk = qk * cos + np.roll(qk, h.dim // 2, -1) * sin
        return qk[:, : h.query] / np.sqrt(h.dim), qk[:, h.query :], v

    def expected(self, sequence: int) -> Doubles:
        """Softmax attention in float64 on inputs rounded to bfloat16: [T, heads * D]."""
        h = self.heads
        q, k, v = (
            from_bf16(to_bf16(x.astype(np.float32))).astype(np.float64)
            for x in self.rotated(sequence)
        )
        k, v = k.repeat(h.group, 1), v.repeat(h.group, 1)
        scores = np.einsum("thd,shd->hts", q, k)
        hidden = np.triu(np.ones(scores.shape[1:], bool), 1)
        scores[:, hidden] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hts,shd->thd", weights, v).reshape(len(q), -1)
