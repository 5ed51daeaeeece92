"""GGUF's tensor types: names, block sizes, and which of them the gguf package dequantises."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class TensorType:
    """``block`` values take ``block_bytes`` bytes."""

    id: int
    name: str
    block: int
    block_bytes: int


@cache
def tensor_type(type_id: int) -> TensorType | None:
    """The type with this number, None when it is unknown or cannot be dequantised."""
    import numpy as np
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        qtype = GGMLQuantizationType(type_id)
        block, block_bytes = GGML_QUANT_SIZES[qtype]
        dequantize(np.zeros((1, block_bytes), np.uint8), qtype)
    except (ValueError, KeyError, NotImplementedError):
        return None
    return TensorType(type_id, str(qtype.name), int(block), int(block_bytes))


def supported_types() -> list[str]:
    """Names of all tensor types that can be read."""
    from gguf.constants import GGMLQuantizationType

    known = (tensor_type(int(t)) for t in GGMLQuantizationType)
    return sorted(t.name for t in known if t is not None)
