"""Which operators run, and why: chosen once at start, checked before they are trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from headrace.kernels.linear import has_packed
from headrace.kernels.operators import Operators
from headrace.kernels.reference import ReferenceOperators
from headrace.nouns.errors import ConfigError

_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
_MORE_ROWS = (5, 7, 9, 11, 24, 48, 96, 192, 384, 768)
_KEYS = (64, 128, 192, 256)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The operators of this process; ``report`` says in a line each what was chosen and why."""

    operators: Operators
    report: tuple[str, ...]


def bfloat16_is_fast() -> bool:
    """True where the CPU multiplies bfloat16 natively (AVX-512-BF16 or AMX)."""
    cpu = torch.cpu
    checks: list[Callable[[], bool]] = [
        getattr(cpu, name)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if hasattr(cpu, name)
    ]
    return any(check() for check in checks)


def choose_dtype(dtype: str) -> tuple[torch.dtype, str]:
    """Weight format for ``auto``, ``float32`` or ``bfloat16`` (``bf16``), and the reason.

    Raises ConfigError for any other name.
    """
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16}
    if dtype in names:
        return names[dtype], "asked for"
    if dtype != "auto":
        raise ConfigError(f"dtype is {dtype!r}; choose auto, float32 or bfloat16")
    if bfloat16_is_fast() and has_packed():
        return torch.bfloat16, "auto: this CPU multiplies bfloat16 natively"
    return torch.float32, "auto: this CPU has no native bfloat16 products"


def attention_rows(head_dim: int) -> int | None:
    """Fewest rows from which batched float32 products agree bit for bit; None if there are none.

    Products are made to cancel, so that any other order of summation shows. Checked: the number
    of rows, of matrices in the batch, of keys as columns, of keys as a padded sum.
    """
    generator = torch.Generator().manual_seed(head_dim)
    half = torch.randn(4, 768, -(-head_dim // 2), generator=generator)
    q = torch.cat((half, -half), -1)[..., :head_dim].contiguous()
    half = torch.randn(4, 1024, -(-head_dim // 2), generator=generator)
    k = torch.cat((half, half), -1)[..., :head_dim].contiguous()
    v = torch.randn(4, 256, head_dim, generator=generator)
    p = torch.randn(4, 768, 256, generator=generator)
    scores, values = torch.bmm(q, k.transpose(1, 2)), torch.bmm(p, v)

    def agrees(rows: int) -> bool:
        if not torch.equal(torch.bmm(q[:, :rows].contiguous(), k.transpose(1, 2)),
                           scores[:, :rows]):  # fmt: skip
            return False
        if not torch.equal(torch.bmm(p[:, :rows].contiguous(), v), values[:, :rows]):
            return False
        one = torch.bmm(q[1:2, :rows].contiguous(), k[1:2, :64].transpose(1, 2))
        if not torch.equal(one, scores[1:2, :rows, :64]):
            return False
        for keys in _KEYS:
            weights = p[:, :rows].clone()
            weights[..., keys:] = 0.0
            full = torch.bmm(weights, v)
            short = torch.bmm(weights[..., :keys], v[:, :keys])
            base = torch.ones_like(full)
            added = base.clone().baddbmm_(weights[..., :keys], v[:, :keys])
            if not (torch.equal(full, short) and torch.equal(added, base.baddbmm_(weights, v))):
                return False
        return True

    good = [rows for rows in sorted({*_ROWS, *_MORE_ROWS}) if agrees(rows)]
    every = sorted({*_ROWS, *_MORE_ROWS})
    for rows in _ROWS:
        if all(r in good for r in every if r >= rows):
            return rows
    return None


def choose(dtype: str, head_dim: int) -> Dispatch:
    """Pick operators for this machine. Raises ConfigError for an unknown ``dtype``."""
    weight_dtype, why = choose_dtype(dtype)
    rows = attention_rows(head_dim)
    if rows is None:
        raise ConfigError(
            "batched float32 products of this torch build depend on the batch, so that equal"
            " requests could give different tokens; use a torch build with MKL"
        )
    packed = "oneDNN packed" if has_packed() else "torch linear, one row count only"
    report = (
        f"weights: {str(weight_dtype).removeprefix('torch.')} ({why}), {packed}",
        f"attention: torch float32, at least {rows} query rows a product (self-check passed)",
    )
    return Dispatch(ReferenceOperators(weight_dtype, rows), report)
