"""Random matrices as files store them, and activations as the C++ kernels round them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from headrace.kernels.extension import load_extension

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

cpu = load_extension().module
KINDS = ("int8", "native", "bf16")
TYPES = ("F32", "Q4_0", "Q4_1", "Q8_0")
NAMES = ("avx512_bf16", "avx512_vnni", "avx512", "avx2_vnni", "avx2", "portable")
PACKED = {"Q4_0": 2, "Q4_1": 4, "Q8_0": 2}  # bytes of a block's header


@dataclass(frozen=True)
class Stored:
    """A matrix [n, k]: what packers take, and the values it stands for."""

    type: str
    data: npt.NDArray[Any]
    values: Floats

    @property
    def piece(self) -> tuple[str, npt.NDArray[Any]]:
        return self.type, self.data


def stored(type_: str, n: int, k: int, seed: int = 0) -> Stored:
    """Normal weights whose rows differ in size, as those of models do."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, k), dtype=np.float32)
    values *= rng.uniform(0.01, 0.2, (n, 1)).astype(np.float32)
    if type_ == "F32":
        return Stored(type_, values, values)
    return from_blocks(type_, quantize(values, GGMLQuantizationType[type_]))


def from_blocks(type_: str, data: npt.NDArray[np.uint8]) -> Stored:
    return Stored(type_, data, dequantize(data, GGMLQuantizationType[type_]))


def activations(rows: int, k: int, seed: int = 1) -> Floats:
    """Normal values with a few large ones, as activations have."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, k), dtype=np.float32)
    x[rng.random((rows, k)) < 0.01] *= 30
    return x


def rounded(x: Floats, kind: str) -> Doubles:
    """What the products of ``kind`` read of x: int8 in blocks with a scale, or bfloat16."""
    if kind == "bf16":
        bits = x.view(np.uint32)
        bits = bits + 0x7FFF + ((bits >> 16) & 1)
        return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    block = 64 if kind == "int8" else 32
    rows, k = x.shape
    padded = np.zeros((rows, -(-k // 64) * 64), dtype=np.float32)
    padded[:, :k] = x
    blocks = padded.reshape(rows, -1, block)
    high = np.abs(blocks).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(high > 0, np.float32(127) / high, np.float32(0))
    values = np.rint(blocks * inverse).astype(np.float64)
    scale = (high * np.float32(1 / 127)).astype(np.float64)
    return (values * scale).reshape(rows, -1)[:, :k]


def runs(name: str) -> bool:
    """Whether this processor runs the build of the kernels with this name."""
    assert cpu is not None
    weight = cpu.Weight.pack("int8", [("F32", np.ones((1, 64), np.float32))])
    try:
        cpu.product(weight, np.ones((1, 64), np.float32), name)
    except ValueError:
        return False
    return True


BUILDS = [name for name in NAMES if cpu is not None and runs(name)]
