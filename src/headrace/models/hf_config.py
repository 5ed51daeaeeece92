"""From a Hugging Face ``config.json`` to a ModelConfig."""

from __future__ import annotations

from typing import Any

from headrace.models.config import ARCHITECTURES, Architecture, ModelConfig
from headrace.models.context import usable_context
from headrace.models.fields import Fields
from headrace.models.rope_config import ROPE_KINDS, RopeConfig, yarn_attention_factor
from headrace.nouns.errors import ModelError

# What an absent key means, from the documentation of each architecture's configuration class.
_DEFAULTS: dict[Architecture, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096},
    "qwen3": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "head_dim": 128,
    },
}


def hf_config(values: dict[str, Any], where: str) -> ModelConfig:
    """The model's shape from the parsed ``config.json``; ``where`` names the file in errors.

    Raises ModelError for an unsupported model or a value that makes no sense.
    """
    kind = Fields(values, where).text("model_type")
    architecture = next((a for a in ARCHITECTURES if a == kind), None)
    if architecture is None:
        raise ModelError(
            f"{where}: model type {kind!r} is not supported; supported are"
            f" {', '.join(ARCHITECTURES)}"
        )
    # A key that is there but null keeps its null: Mistral's window is off that way.
    fields = Fields(_DEFAULTS[architecture] | values, where)
    _refuse_unsupported(fields)
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if heads < 1:
        raise ModelError(f"{where}: 'num_attention_heads' is {heads}; it must be at least 1")
    context = fields.integer("max_position_embeddings")
    rope = _rope(fields, context)
    window = _window(fields, architecture)
    usable, note = usable_context(context, window, rope)
    bias = fields.flag("attention_bias", False) and architecture in ("llama", "qwen3")
    return ModelConfig(
        architecture=architecture,
        hidden_size=hidden,
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=fields.integer("num_key_value_heads", heads),
        head_dim=fields.integer("head_dim", hidden // heads),
        intermediate_size=fields.integer("intermediate_size"),
        vocab_size=fields.integer("vocab_size"),
        max_context=usable,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=rope,
        attention_bias=bias or architecture == "qwen2",
        output_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False) and architecture == "llama",
        qk_norm=architecture == "qwen3",
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        sliding_window=window,
        context_note=note,
    )


def _refuse_unsupported(fields: Fields) -> None:
    classes = fields.values.get("architectures") or []
    if isinstance(classes, list):
        for name in classes:
            if not str(name).endswith("ForCausalLM"):
                raise ModelError(
                    f"{fields.where}: {name!r} does not generate text; supported are models for"
                    " causal language modelling (classes that end in ForCausalLM)"
                )
    quantisation = fields.section("quantization_config")
    if quantisation is not None:
        method = quantisation.values.get("quant_method", "unknown")
        raise ModelError(
            f"{fields.where}: weights quantised with {method!r} are not supported; use the"
            " unquantised model or a GGUF file of it"
        )
    activation = fields.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(
            f"{fields.where}: activation {activation!r} is not supported; supported is silu"
        )


def _window(fields: Fields, architecture: Architecture) -> int | None:
    """The sliding window where any layer has one."""
    window = fields.integer("sliding_window", 0)
    if architecture == "llama" or window < 1:
        return None
    if architecture == "mistral":
        return window
    if not fields.flag("use_sliding_window", False):
        return None
    if "layer_types" in fields:
        sliding = "sliding_attention" in fields.texts("layer_types")
    else:
        sliding = fields.integer("max_window_layers", 28) < fields.integer("num_hidden_layers")
    return window if sliding else None


def _rope(fields: Fields, context: int) -> RopeConfig:
    """Rope from ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling``."""
    section = fields.section("rope_parameters") or fields.section("rope_scaling")
    rope = section or Fields({}, fields.where)
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise ModelError(f"{rope.where}: rope that differs between layers is not supported")
    theta = rope.number("rope_theta", fields.number("rope_theta", 10000.0))
    rotated = rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0))
    if rotated != 1.0:
        raise ModelError(
            f"{rope.where}: rope on {rotated:g} of each head (partial rotary embedding) is not"
            " supported"
        )
    name = rope.text("rope_type", rope.text("type", "default"))
    kind = next((k for k in ROPE_KINDS if k == name), None)
    if kind is None:
        raise ModelError(
            f"{rope.where}: rope of type {name!r} is not supported; supported are"
            f" {', '.join(ROPE_KINDS)}"
        )
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(theta=theta, kind=kind, factor=rope.number("factor"))
    original = rope.integer(
        "original_max_position_embeddings",
        fields.integer("original_max_position_embeddings", context),
    )
    if kind == "llama3":
        return RopeConfig(
            theta=theta,
            kind=kind,
            factor=rope.number("factor"),
            low_freq_factor=rope.number("low_freq_factor"),
            high_freq_factor=rope.number("high_freq_factor"),
            original_max_position=original,
        )
    factor = rope.number("factor", context / original if original > 0 else 1.0)
    attention = yarn_attention_factor(
        factor, rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    )
    return RopeConfig(
        theta=theta,
        kind=kind,
        factor=factor,
        original_max_position=original,
        attention_factor=rope.number("attention_factor", attention),
        beta_fast=rope.number("beta_fast", 32.0) or 32.0,
        beta_slow=rope.number("beta_slow", 1.0) or 1.0,
        truncate=rope.flag("truncate", True),
    )
