"""Transformer: the decoder of Llama, Mistral, Qwen2 and Qwen3, written once on the operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from headrace.kernels.layout import Layout
from headrace.kernels.operators import (
    Activation,
    AttentionShape,
    HeadNorms,
    Operators,
    Weight,
)
from headrace.kernels.rope import rope_tables
from headrace.models.config import ModelConfig
from headrace.models.model import ModelCache
from headrace.models.weights import WeightReader


class Mlp(Protocol):
    """The second half of a layer; a mixture of experts would be another of these."""

    @property
    def nbytes(self) -> int: ...

    def __call__(self, ops: Operators, x: Activation, residual: torch.Tensor) -> torch.Tensor:
        """residual + mlp(x), float32 [R, E]; ``residual`` may be changed in place."""
        ...


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """down(silu(gate(x)) * up(x))."""

    gate_up: Weight
    down: Weight

    @property
    def nbytes(self) -> int:
        return self.gate_up.nbytes + self.down.nbytes

    def __call__(self, ops: Operators, x: Activation, residual: torch.Tensor) -> torch.Tensor:
        return ops.linear_add(ops.gated_linear(x, self.gate_up), self.down, residual)


@dataclass(frozen=True, slots=True)
class Layer:
    """Attention and MLP of one layer; ``qkv`` holds the three projections as one matrix."""

    attn_norm: torch.Tensor
    qkv: Weight
    head_norms: HeadNorms | None
    o: Weight
    mlp_norm: torch.Tensor
    mlp: Mlp

    @property
    def nbytes(self) -> int:
        return self.qkv.nbytes + self.o.nbytes + self.mlp.nbytes


class Transformer:
    """Runs the rows of a step through all layers and returns the logits that are wanted.

    ``operators`` may be replaced by others that wrap them, to measure where time goes.
    """

    def __init__(
        self, config: ModelConfig, weights: WeightReader, operators: Operators, max_context: int
    ) -> None:
        """Read, convert and pack every weight. Raises ModelError when one cannot be read."""
        self.config = config
        self.operators = operators
        self.max_context = max_context
        self.shape = AttentionShape(config.num_heads, config.num_kv_heads, config.head_dim)
        self.rope = rope_tables(
            config.rope.inverse_frequencies(config.head_dim),
            max_context,
            config.rope.attention_factor if config.rope.kind == "yarn" else 1.0,
            operators.device,
        )
        dtype = operators.weight_dtype
        self._embed = weights.get("embed", dtype).to(operators.device)
        self._norm = weights.get("norm", torch.float32).to(operators.device)
        tied = config.tied_embeddings
        head = self._embed if tied else weights.get("head", dtype).to(operators.device)
        self._head = operators.pack_head(head)
        self.layers = tuple(
            _load_layer(config, weights, operators, f"layers.{i}.")
            for i in range(config.num_layers)
        )

    @property
    def device(self) -> torch.device:
        return self.operators.device

    @property
    def cache_dtype(self) -> torch.dtype:
        return self.operators.cache_dtype

    def cache_width(self, block_size: int) -> int:
        """Values of a cache row, which holds one block of one key/value head."""
        return block_size * self.shape.head_dim

    def padded_rows(self, rows: int) -> int:
        """See Operators.padded_rows."""
        return self.operators.padded_rows(rows)

    @property
    def nbytes(self) -> int:
        """Bytes of weights and tables in memory."""
        fixed = self._embed.nbytes + self._head.nbytes + self.rope.nbytes
        return fixed + sum(layer.nbytes for layer in self.layers)

    @torch.inference_mode()
    def forward(self, layout: Layout, cache: ModelCache) -> torch.Tensor:
        """Compute the layout's rows, writing their state to ``cache``.

        Returns the logits of the sampled rows, float32 [samples, V].
        """
        prepared = self.operators.prepare(layout, self.shape, self.rope)
        return self.compute(prepared, layout.token_tensor, layout.sampled_tensor, cache)

    def compute(
        self, prepared: Any, tokens: torch.Tensor, sampled: torch.Tensor, cache: ModelCache
    ) -> torch.Tensor:
        """All layers of a prepared step: ``tokens`` [R] and ``sampled`` rows, both int64."""
        ops, eps = self.operators, self.config.norm_eps
        x = ops.embed(self._embed, tokens)
        for layer, state in zip(self.layers, cache.layers, strict=True):
            qkv = ops.linear(ops.norm(x, layer.attn_norm, eps), layer.qkv)
            q = ops.rotate_store(qkv, state, prepared, layer.head_norms)
            x = ops.linear_add(ops.attention(q, state, prepared), layer.o, x)
            x = layer.mlp(ops, ops.norm(x, layer.mlp_norm, eps), x)
        if not len(sampled):
            return x.new_empty(0, self.config.vocab_size)
        last = ops.norm(x.index_select(0, sampled), self._norm, eps)
        return ops.head(last, self._head)


def _load_layer(config: ModelConfig, weights: WeightReader, ops: Operators, prefix: str) -> Layer:
    def get(name: str) -> torch.Tensor:
        return weights.get(prefix + name, torch.float32).to(ops.device)

    def stacked(names: str) -> torch.Tensor:
        return torch.cat([get(name) for name in names.split()])

    norms = None
    if config.qk_norm:
        q_norm, k_norm = get("q_norm"), get("k_norm")
        rows = [q_norm] * config.num_heads + [k_norm] * config.num_kv_heads
        norms = HeadNorms(torch.stack(rows), config.norm_eps)
    biased = config.mlp_bias
    mlp = GatedMlp(
        ops.pack_gated(
            get("gate"),
            get("up"),
            get("gate_bias") if biased else None,
            get("up_bias") if biased else None,
        ),
        ops.pack(get("down"), get("down_bias") if biased else None),
    )
    return Layer(
        attn_norm=get("attn_norm"),
        qkv=ops.pack(
            stacked("q k v"), stacked("q_bias k_bias v_bias") if config.attention_bias else None
        ),
        head_norms=norms,
        o=ops.pack(get("o"), get("o_bias") if config.output_bias else None),
        mlp_norm=get("mlp_norm"),
        mlp=mlp,
    )
