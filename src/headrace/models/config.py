"""ModelConfig: the shape of a model, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from headrace.models.rope_config import RopeConfig
from headrace.nouns.errors import ModelError

__all__ = ["ARCHITECTURES", "Architecture", "ModelConfig", "RopeConfig"]

Architecture = Literal["llama", "mistral", "qwen2", "qwen3"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

_MAX_DIMENSION = 1 << 24  # wider than any model; keeps sizes of corrupt files from overflowing
_MAX_LAYERS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder-only Transformer with RMSNorm, rotary embeddings and a gated SiLU MLP.

    ``max_context`` is in tokens and is already the length that can be honoured; where that is
    less than the model's own, ``context_note`` says why. ``sliding_window`` is the model's window
    in tokens, for information: within ``max_context`` it never cuts anything off.
    ``attention_bias`` is about the q, k and v projections, ``output_bias`` about the attention's
    output, ``mlp_bias`` about gate, up and down.

    Raises ModelError when the numbers cannot belong to such a model.
    """

    architecture: Architecture
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_context: int
    norm_eps: float = 1e-6
    rope: RopeConfig = field(default_factory=RopeConfig)
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False
    sliding_window: int | None = None
    context_note: str = ""

    def __post_init__(self) -> None:
        for name in (
            "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
            "intermediate_size", "vocab_size", "max_context",
        ):  # fmt: skip
            value = getattr(self, name)
            if not 1 <= value <= _MAX_DIMENSION:
                raise ModelError(
                    f"the model's {name} is {value}; it must be in [1, {_MAX_DIMENSION}]."
                    " The file is damaged or not a model of this kind"
                )
        if self.num_layers > _MAX_LAYERS:
            raise ModelError(
                f"the model has {self.num_layers} layers; at most {_MAX_LAYERS} are supported"
            )
        if self.num_heads % self.num_kv_heads:
            raise ModelError(
                f"the model has {self.num_heads} attention heads and {self.num_kv_heads} key-value"
                " heads; the first must be a multiple of the second"
            )
        if self.head_dim % 2:
            raise ModelError(f"the model's head_dim is {self.head_dim}; it must be even")
        if not 0.0 < self.norm_eps < 1.0:
            raise ModelError(f"the model's norm epsilon is {self.norm_eps}; it must be in (0, 1)")
        divisors = self.rope.divisors
        if divisors is not None and len(divisors) != self.head_dim // 2:
            raise ModelError(
                f"the file stores {len(divisors)} rope divisors; head_dim {self.head_dim}"
                f" needs {self.head_dim // 2}"
            )

    @property
    def q_size(self) -> int:
        """Rows of the query projection: heads times head_dim."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Rows of the key and of the value projection."""
        return self.num_kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Numbers in one layer."""
        h, m = self.hidden_size, self.intermediate_size
        count = 2 * h * self.q_size + 2 * h * self.kv_size + 3 * h * m + 2 * h
        count += (self.q_size + 2 * self.kv_size) * self.attention_bias
        count += h * self.output_bias + (2 * m + h) * self.mlp_bias
        return count + 2 * self.head_dim * self.qk_norm

    @property
    def embedding_parameters(self) -> int:
        """Numbers in the token embedding; a separate output head has as many."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """Numbers in all weights; a tied output head is counted once."""
        tables = 1 if self.tied_embeddings else 2
        return (
            self.num_layers * self.layer_parameters
            + tables * self.embedding_parameters
            + self.hidden_size
        )

    def cache_values_per_token(self) -> int:
        """Numbers that the key-value cache keeps for one token, over all layers."""
        return 2 * self.num_layers * self.kv_size

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical weight names and their shapes, row-major [out, in]; see WeightReader."""
        h, m, q, kv = self.hidden_size, self.intermediate_size, self.q_size, self.kv_size
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (h,), "q": (q, h), "k": (kv, h), "v": (kv, h), "o": (h, q),
            "mlp_norm": (h,), "gate": (m, h), "up": (m, h), "down": (h, m),
        }  # fmt: skip
        if self.attention_bias:
            layer |= {"q_bias": (q,), "k_bias": (kv,), "v_bias": (kv,)}
        if self.output_bias:
            layer |= {"o_bias": (h,)}
        if self.mlp_bias:
            layer |= {"gate_bias": (m,), "up_bias": (m,), "down_bias": (h,)}
        if self.qk_norm:
            layer |= {"q_norm": (self.head_dim,), "k_norm": (self.head_dim,)}
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocab_size, h), "norm": (h,)}
        if not self.tied_embeddings:
            shapes["head"] = (self.vocab_size, h)
        for i in range(self.num_layers):
            shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
        return shapes
