"""The operator seam: what a transformer step is made of, as functions on tensors.

One rule binds every implementation: a row's result depends on that row's inputs only, bit for bit.
Neither the number of rows in the call, nor a row's place among them, nor how its keys and values
are paged may change a single bit. Everything else (number formats, packing, fusion) is free.

Shapes: R rows of a step (padded), E hidden size, H query heads, K key/value heads, D head size,
I intermediate size, V vocabulary. The residual stream is float32 [R, E]. An ``Activation`` is what
the implementation's own products read: float32, bfloat16, or int8 with scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from headrace.kernels.layout import Layout

# Imported when needed: torch takes a second and 180 MB, and the C++ decoder has no use for it.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Logits = npt.NDArray[np.float32] | torch.Tensor
    """Float32 [R, V]: in the CPU's memory an array or a tensor, on another device a tensor."""
else:
    Logits = Any

Activation = Any


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Heads of an attention layer."""

    heads: int
    kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads that share one key/value head (grouped-query attention, Ainslie 2023)."""
        return self.heads // self.kv_heads


class Weight(Protocol):
    """A matrix prepared for products; only the operators that made it can read it."""

    rows_out: int
    rows_in: int
    nbytes: int
    format: str


class LayerCache(Protocol):
    """State of one layer: float tensors [blocks * K, block_size * D], one row a block and head."""

    @property
    def keys(self) -> torch.Tensor: ...

    @property
    def values(self) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMS norm over each head before rotation (Qwen3): weights [H + K, D], query heads first."""

    weight: torch.Tensor
    eps: float


class Operators(Protocol):
    """What a step runs. Implementations are stateless between steps but for their weights.

    All tensors they are given live on ``device``, and so do those they return. Weights and cache
    are in ``weight_dtype`` and ``cache_dtype`` before an implementation packs them.
    """

    name: str
    device: torch.device
    weight_dtype: torch.dtype
    cache_dtype: torch.dtype

    def pack(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Weight:
        """Prepare [N, K] for ``linear``; may keep a reference to ``weight``, never changes it."""
        ...

    def pack_gated(
        self,
        gate: torch.Tensor,
        up: torch.Tensor,
        gate_bias: torch.Tensor | None = None,
        up_bias: torch.Tensor | None = None,
    ) -> Weight:
        """Prepare gate and up, each [I, E], for ``gated_linear``."""
        ...

    def pack_head(self, weight: torch.Tensor) -> Weight:
        """Prepare the output matrix [V, E] for ``head``."""
        ...

    def padded_rows(self, rows: int) -> int:
        """How many rows a step of ``rows`` rows should be padded to, at least ``rows``."""
        ...

    def prepare(self, layout: Layout, shape: AttentionShape, rope: RopeTables) -> Any:
        """Whatever all layers of a step share (index tensors, masks, rotations); built once."""
        ...

    def embed(self, table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Rows of ``table`` [V, E] for ``tokens`` [R]; a new float32 residual [R, E]."""
        ...

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Activation:
        """x / sqrt(mean(x^2) + eps) * weight per row (Zhang and Sennrich 2019)."""
        ...

    def linear(self, x: Activation, weight: Any) -> torch.Tensor:
        """x W^T (+ bias): [R, N], in float32 or the format of the activations."""
        ...

    def linear_add(self, x: Activation, weight: Any, residual: torch.Tensor) -> torch.Tensor:
        """residual + x W^T (+ bias), float32; ``residual`` may be changed in place."""
        ...

    def gated_linear(self, x: Activation, weight: Any) -> Activation:
        """silu(x Wg^T) * (x Wu^T): [R, I] (SwiGLU, Shazeer 2020)."""
        ...

    def rotate_store(
        self, qkv: torch.Tensor, cache: LayerCache, prepared: Any, norms: HeadNorms | None
    ) -> torch.Tensor:
        """Rotate queries and keys (RoPE, Su 2021, halves paired) and store keys and values.

        ``qkv`` is [R, (H + 2 K) * D]; returns the queries, float32 [rows, H, D], already divided
        by sqrt(D). Changes the cache at the layout's slots only.
        """
        ...

    def attention(self, q: torch.Tensor, cache: LayerCache, prepared: Any) -> Activation:
        """Causal attention of each row over the cached positions up to its own: [R, H * D]."""
        ...

    def head(self, x: Activation, weight: Any) -> torch.Tensor:
        """Logits, float32 [R, V]."""
        ...


@dataclass(frozen=True, slots=True)
class RopeTables:
    """cos and sin per position, float32 [max_context, D]; sin is negated in its first half."""

    cos: torch.Tensor
    sin: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.cos.nbytes + self.sin.nbytes
