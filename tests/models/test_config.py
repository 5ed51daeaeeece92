"""config.json: every architecture, every rope variant in both styles, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from headrace.models.config import ModelConfig
from headrace.models.hf_config import hf_config
from headrace.models.rope_config import RopeConfig
from headrace.nouns.errors import ModelError

BASE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "max_position_embeddings": 4096,
}  # fmt: skip

SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 512,
        "beta_fast": 16, "beta_slow": 2, "mscale": 0.7, "mscale_all_dim": 1.0, "truncate": False,
    },
    {
        "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048,
        "attention_factor": 1.25,
    },
]  # fmt: skip


def config_of(**changes: Any) -> ModelConfig:
    return hf_config(BASE | changes, "config.json")


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s["rope_type"])
@pytest.mark.parametrize("style", ["rope_scaling", "rope_parameters"])
def test_rope_frequencies_are_those_of_transformers(scaling: dict[str, Any], style: str) -> None:
    theta = 500000.0
    reference = LlamaConfig(**BASE, rope_parameters=scaling | {"rope_theta": theta})
    if style == "rope_parameters":
        rope = config_of(rope_parameters=scaling | {"rope_theta": theta}).rope
    else:
        old = dict(scaling)
        old["type"] = old.pop("rope_type")
        rope = config_of(rope_scaling=old, rope_theta=theta).rope
    if scaling["rope_type"] == "default":
        expected, attention = theta ** (-np.arange(0, 16, 2) / 16), 1.0
    else:
        got, attention = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](reference, torch.device("cpu"))
        expected = got.double().numpy()
    np.testing.assert_allclose(rope.inverse_frequencies(16), expected, rtol=2e-6)
    assert rope.attention_factor == pytest.approx(attention)


@pytest.mark.parametrize(
    "reference",
    [
        LlamaConfig(**BASE, attention_bias=True, mlp_bias=True),
        LlamaConfig(**BASE, tie_word_embeddings=True, head_dim=32),
        MistralConfig(**{**BASE, "model_type": "mistral"}, head_dim=32, sliding_window=None),
        Qwen2Config(**{**BASE, "model_type": "qwen2"}),
        Qwen3Config(**{**BASE, "model_type": "qwen3"}, head_dim=32, attention_bias=True),
    ],
    ids=["llama-biases", "llama-tied", "mistral", "qwen2", "qwen3"],
)
def test_parameters_are_those_of_transformers(reference: PretrainedConfig) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(reference)
    config = hf_config(reference.to_dict(), "config.json")
    assert config.num_parameters == sum(p.numel() for p in model.parameters())
    shapes = sorted(tuple(p.shape) for p in model.parameters())
    assert sorted(config.weight_shapes().values()) == shapes


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_absent_keys_mean_what_transformers_means(kind: str) -> None:
    needed = {
        "model_type": kind, "hidden_size": 4096, "intermediate_size": 8192, "vocab_size": 1000,
        "num_hidden_layers": 2, "num_attention_heads": 32,
    }  # fmt: skip
    config = hf_config(needed, "config.json")
    reference = AutoConfig.for_model(**needed)
    head_dim = getattr(reference, "head_dim", None) or 4096 // 32
    assert config.head_dim == head_dim
    assert config.num_kv_heads == reference.num_key_value_heads
    assert config.norm_eps == reference.rms_norm_eps
    assert config.tied_embeddings == reference.tie_word_embeddings
    assert config.sliding_window == getattr(reference, "sliding_window", None)
    own = reference.max_position_embeddings
    assert config.max_context == min(own, config.sliding_window or own)


def test_default_configurations_round_trip() -> None:
    for reference in (LlamaConfig(), MistralConfig(), Qwen2Config(), Qwen3Config()):
        config = hf_config(reference.to_dict(), "config.json")
        assert config.num_layers == reference.num_hidden_layers
        assert config.rope == RopeConfig(theta=reference.rope_parameters["rope_theta"])


def test_yarn_reaches_factor_times_its_original_length() -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    config = config_of(rope_scaling=scaling)
    assert config.max_context == 16384
    assert "yarn" in config.context_note


def test_llama3_context_is_what_the_file_says() -> None:
    assert config_of(rope_scaling=SCALINGS[2]).max_context == 4096


@pytest.mark.parametrize(
    ("changes", "context"),
    [
        ({"model_type": "mistral", "sliding_window": 1024}, 1024),
        ({"model_type": "mistral", "sliding_window": None}, 4096),
        ({"model_type": "mistral", "sliding_window": 8192}, 4096),
        ({"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": False}, 4096),
        ({"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": True}, 4096),
        (
            {
                "model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": True,
                "max_window_layers": 1,
            },
            1024,
        ),
        (
            {
                "model_type": "qwen3", "sliding_window": 1024, "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            1024,
        ),
    ],
)  # fmt: skip
def test_sliding_window_limits_the_context(changes: dict[str, Any], context: int) -> None:
    config = config_of(**changes)
    assert config.max_context == context
    assert bool(config.context_note) == (context < 4096)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, "'mixtral' is not supported; supported are llama"),
        ({"model_type": "qwen3_moe"}, "'qwen3_moe' is not supported"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "does not generate text"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised with 'gptq'"),
        ({"hidden_act": "gelu"}, "'gelu' is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "no 'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "factor is -1"),
        ({"rope_scaling": 4}, "'rope_scaling' must be a mapping"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differs between layers"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"rope_theta": 0.0}, "theta is 0"),
        ({"hidden_size": "64"}, "'hidden_size' must be a whole number, not '64'"),
        ({"hidden_size": True}, "'hidden_size' must be a whole number"),
        ({"num_attention_heads": 0}, "at least 1"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"head_dim": 15}, "even"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_hidden_layers": 10**6}, "1000000 layers"),
        ({"hidden_size": 10**12}, "hidden_size"),
        ({"rms_norm_eps": 0}, "epsilon"),
        ({"rms_norm_eps": 10**400}, "finite"),
        ({"intermediate_size": None}, "no 'intermediate_size'"),
    ],
)
def test_refusals_name_the_thing(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        config_of(**changes)


def test_cache_size() -> None:
    config = config_of()
    assert config.cache_values_per_token() == 2 * 2 * 2 * 16
