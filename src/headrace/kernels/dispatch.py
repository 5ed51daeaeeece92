"""Which operators run, and why: chosen once at start, checked before they are trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from headrace.kernels.linear import has_packed
from headrace.kernels.operators import Operators
from headrace.kernels.products import find_products
from headrace.kernels.reference import ReferenceOperators
from headrace.nouns.errors import ConfigError


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
        raise ConfigError(f"weights is {dtype!r}; torch computes float32 and bfloat16")
    if bfloat16_is_fast() and has_packed(torch.bfloat16):
        return torch.bfloat16, "auto: this CPU multiplies bfloat16 natively"
    return torch.float32, "auto: this CPU has no native bfloat16 products"


def choose(dtype: str, head_dim: int) -> Dispatch:
    """Pick torch operators for this machine. Raises ConfigError for an unknown ``dtype``."""
    weight_dtype, why = choose_dtype(dtype)
    products, checked = find_products(head_dim)
    packed = "oneDNN packed" if has_packed(weight_dtype) else "torch linear"
    report = (
        f"weights: {str(weight_dtype).removeprefix('torch.')} ({why}), {packed}",
        f"attention: torch float32, {products.name} products ({checked})",
    )
    return Dispatch(ReferenceOperators(weight_dtype, products), report)
