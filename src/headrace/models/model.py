"""Model: what an executor runs, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from headrace.kernels.layout import Layout
from headrace.kernels.operators import AttentionShape, LayerCache, Logits
from headrace.models.config import ModelConfig

if TYPE_CHECKING:
    import torch


class ModelCache(Protocol):
    """State of all layers: one after the other, or as one array [layers, 2, rows, width]."""

    @property
    def layers(self) -> Sequence[LayerCache]: ...

    @property
    def array(self) -> np.ndarray[tuple[int, ...], np.dtype[Any]]: ...


class Model(Protocol):
    """Weights and the arithmetic on them. Not thread-safe."""

    config: ModelConfig
    shape: AttentionShape
    max_context: int

    @property
    def nbytes(self) -> int:
        """Bytes of weights and tables in memory."""
        ...

    @property
    def device(self) -> torch.device | str: ...

    @property
    def cache_dtype(self) -> torch.dtype | None:
        """Of the cache's numbers; None for bytes in a layout of the kernels' own."""
        ...

    def cache_width(self, block_size: int) -> int:
        """Numbers (or bytes) in a cache row: one block of one key/value head."""
        ...

    def padded_rows(self, rows: int) -> int:
        """How many rows a step of ``rows`` rows should be padded to, at least ``rows``."""
        ...

    def forward(self, layout: Layout, cache: ModelCache) -> Logits:
        """Compute the layout's rows, writing their state to ``cache``.

        Returns the logits of the sampled rows, float32 [samples, V], which the next call may
        overwrite.
        """
        ...
