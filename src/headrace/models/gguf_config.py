"""From a GGUF file's metadata to a ModelConfig."""

from __future__ import annotations

import struct

from headrace.models.config import Architecture, ModelConfig
from headrace.models.context import usable_context
from headrace.models.fields import Fields
from headrace.models.gguf_file import GgufFile
from headrace.models.rope_config import RopeConfig, yarn_attention_factor
from headrace.nouns.errors import ModelError

# GGUF files the Mistral family under ``llama``.
SUPPORTED: dict[str, Architecture] = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def gguf_config(file: GgufFile) -> ModelConfig:
    """The model's shape. Raises ModelError for an unsupported or damaged model."""
    fields = Fields(file.metadata, str(file.path))
    name = fields.text("general.architecture")
    if name not in SUPPORTED:
        raise ModelError(
            f"{file.path}: architecture {name!r} is not supported; supported in GGUF files are"
            f" {', '.join(SUPPORTED)} (Mistral models count as llama)"
        )
    _refuse_unsupported(fields, name)
    hidden = fields.integer(f"{name}.embedding_length")
    heads = _per_layer(fields, f"{name}.attention.head_count")
    if heads < 1:
        raise ModelError(f"{file.path} says the model has {heads} attention heads")
    head_dim = fields.integer(f"{name}.attention.key_length", hidden // heads)
    if fields.integer(f"{name}.attention.value_length", head_dim) != head_dim:
        raise ModelError(f"{file.path}: keys and values of different lengths are not supported")
    rotated = fields.integer(f"{name}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise ModelError(
            f"{file.path}: rope on {rotated} of {head_dim} dimensions (partial rotary embedding)"
            " is not supported"
        )
    embed = file.tensors.get("token_embd.weight")
    if embed is None:
        raise ModelError(f"{file.path} has no tensor 'token_embd.weight', which the model needs")
    context = fields.integer(f"{name}.context_length")
    rope = _rope(file, fields, name, context)
    window = fields.integer(f"{name}.attention.sliding_window", 0) or None
    usable, note = usable_context(context, window, rope)
    return ModelConfig(
        architecture=SUPPORTED[name],
        hidden_size=hidden,
        num_layers=fields.integer(f"{name}.block_count"),
        num_heads=heads,
        num_kv_heads=_per_layer(fields, f"{name}.attention.head_count_kv", heads),
        head_dim=head_dim,
        intermediate_size=_per_layer(fields, f"{name}.feed_forward_length"),
        vocab_size=embed.shape[0],
        max_context=usable,
        norm_eps=fields.number(f"{name}.attention.layer_norm_rms_epsilon"),
        rope=rope,
        attention_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_down.bias" in file.tensors,
        qk_norm=name == "qwen3",
        tied_embeddings="output.weight" not in file.tensors,
        sliding_window=window,
        context_note=note,
    )


def _refuse_unsupported(fields: Fields, name: str) -> None:
    if fields.integer("split.count", 1) > 1:
        raise ModelError(
            f"{fields.where} is one of {fields.integer('split.count')} parts; join them with"
            " 'llama-gguf-split --merge FIRST_PART OUT.gguf' and give OUT.gguf"
        )
    experts = fields.integer(f"{name}.expert_count", 0)
    if experts:
        raise ModelError(
            f"{fields.where} is a mixture of {experts} experts, which is not supported;"
            " supported are dense models"
        )
    for key in ("logit_scale", "embedding_scale", "residual_scale", "attention.scale"):
        if fields.number(f"{name}.{key}", 1.0) not in (0.0, 1.0):
            raise ModelError(f"{fields.where}: {name}.{key} is set, which is not supported")


def _per_layer(fields: Fields, key: str, default: int | None = None) -> int:
    """A number that GGUF lets differ by layer; here it may not."""
    value = fields.values.get(key)
    if isinstance(value, list):
        distinct = set(fields.integers(key))
        if len(distinct) != 1:
            raise ModelError(
                f"{fields.where}: {key} differs between layers, which is not supported"
            )
        return distinct.pop()
    return fields.integer(key) if default is None else fields.integer(key, default)


def _rope(file: GgufFile, fields: Fields, name: str, context: int) -> RopeConfig:
    theta = fields.number(f"{name}.rope.freq_base", 10000.0)
    kind = fields.text(f"{name}.rope.scaling.type", "none")
    factor = fields.number(f"{name}.rope.scaling.factor", 0.0)
    if not factor:
        factor = fields.number(f"{name}.rope.scale_linear", 0.0)  # how older files say it
        kind = "linear" if factor and kind == "none" else kind
    factor = factor or 1.0
    original = fields.integer(f"{name}.rope.scaling.original_context_length", 0) or context
    divisors = _divisors(file)
    if divisors is not None:
        if kind not in ("none", "llama3"):
            raise ModelError(
                f"{file.path}: rope scaling {kind!r} together with the tensor 'rope_freqs.weight'"
                " is not supported"
            )
        return RopeConfig(
            theta=theta, kind="llama3", original_max_position=original, divisors=divisors
        )
    if kind == "none":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(theta=theta, kind="linear", factor=factor)
    if kind == "llama3":
        prefix = f"{name}.rope.scaling."
        return RopeConfig(
            theta=theta,
            kind="llama3",
            factor=factor,
            low_freq_factor=fields.number(prefix + "low_freq_factor"),
            high_freq_factor=fields.number(prefix + "high_freq_factor"),
            original_max_position=original,
        )
    if kind == "yarn":
        prefix = f"{name}.rope.scaling."
        attention = fields.number(prefix + "attn_factor", 1.0)
        return RopeConfig(
            theta=theta,
            kind="yarn",
            factor=factor,
            original_max_position=original,
            attention_factor=attention * yarn_attention_factor(factor),
            beta_fast=fields.number(prefix + "yarn_beta_fast", 32.0),
            beta_slow=fields.number(prefix + "yarn_beta_slow", 1.0),
        )
    raise ModelError(
        f"{file.path}: rope scaling {kind!r} is not supported; supported are none, linear,"
        " llama3 and yarn"
    )


def _divisors(file: GgufFile) -> tuple[float, ...] | None:
    """The Llama 3 divisors, a few dozen numbers that GGUF keeps in a tensor."""
    info = file.tensors.get("rope_freqs.weight")
    if info is None:
        return None
    if info.type.name != "F32" or len(info.shape) != 1:
        raise ModelError(f"{file.path}: 'rope_freqs.weight' must be a vector of type F32")
    try:
        with file.path.open("rb") as stream:
            stream.seek(info.offset)
            raw = stream.read(info.nbytes)
        return struct.unpack(f"<{info.shape[0]}f", raw)
    except (OSError, struct.error) as error:
        raise ModelError(f"cannot read 'rope_freqs.weight' of {file.path}: {error}") from error
