"""WeightReader: the weights of a model under canonical names, whatever file they are in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight as its file stores it.

    ``type`` is the file's name of the format: GGUF's (``Q4_1``, ``Q8_0``, ``F32``, ...) or
    ``F32``, ``F16``, ``BF16`` of safetensors. ``shape`` counts values, row-major [out, in].
    ``data`` are the bytes, uint8 [rows, bytes per row], rows already in our order.
    """

    type: str
    shape: tuple[int, ...]
    data: np.ndarray[tuple[int, int], np.dtype[np.uint8]]


class WeightReader(Protocol):
    """Reads weights one at a time; nothing is kept, so the caller decides what is in memory.

    Canonical names: ``embed``, ``norm``, ``head`` (absent when tied to ``embed``), and
    ``layers.{i}.`` + ``attn_norm, q, k, v, o, mlp_norm, gate, up, down``, and where the model has
    them ``q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias, q_norm, k_norm``.
    Matrices are row-major [out, in]; query and key rows are in the order that rotates pairs
    (i, i + head_dim / 2). Names and shapes are those of ``ModelConfig.weight_shapes``, checked
    when the file is opened. ``nbytes`` is what the weights take in the file.
    """

    @property
    def nbytes(self) -> int: ...

    def names(self) -> list[str]:
        """All canonical names, ``embed`` first, layers in order."""
        ...

    def get(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The weight, dequantised, in ``dtype``, in memory of its own.

        Raises ModelError when the file cannot be read or its data are damaged; KeyError for a
        name that is not in ``names()``.
        """
        ...

    def values(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """The weight, dequantised, as an array in memory of its own. Raises as get."""
        ...

    def stored_type(self, name: str) -> str:
        """``StoredWeight.type`` of a weight, without reading it."""
        ...

    def stored(self, name: str) -> StoredWeight:
        """The weight in the file's own format, for kernels that compute in it. Raises as get."""
        ...
