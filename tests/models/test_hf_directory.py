"""Hugging Face directories: single and sharded safetensors, special tokens, damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from headrace.models.inspect import describe
from headrace.models.loader import ModelFiles, open_model
from headrace.models.source import ModelSource, resolve
from headrace.nouns.errors import ModelError
from tests.models.tiny import byte_vocabulary

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 260,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "mistral": MistralConfig(**SHAPE, head_dim=32, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32),
}


def save_tokenizer(folder: Path) -> None:
    vocabulary = byte_vocabulary()
    pieces = vocabulary["tokenizer.ggml.tokens"]
    backend = Tokenizer(
        models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[("h", "e"), ("he", "l")])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(pieces[:2])
    backend.enable_truncation(4)
    backend.save(str(folder / "tokenizer.json"))


def save(folder: Path, config: PretrainedConfig, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # biases are made as zeros
        torch.nn.init.normal_(parameter)
    model.save_pretrained(folder, **options)
    save_tokenizer(folder)
    return {name: p.detach() for name, p in model.named_parameters()}


def opened(folder: Path) -> ModelFiles:
    return open_model(ModelSource("tiny", folder, "hf"))


def hf_name(name: str) -> str:
    """The name in transformers, written down independently of the reader."""
    if "." not in name:
        tops = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
        return tops[name] + ".weight"
    _, layer, part = name.split(".")
    part, _, tail = part.partition("_bias")
    ending = "bias" if name.endswith("_bias") else "weight"
    assert not tail
    if part in ("attn_norm", "mlp_norm"):
        norm = {"attn_norm": "input", "mlp_norm": "post_attention"}[part]
        return f"model.layers.{layer}.{norm}_layernorm.weight"
    if part in ("q_norm", "k_norm"):
        return f"model.layers.{layer}.self_attn.{part}.weight"
    block = "mlp" if part in ("gate", "up", "down") else "self_attn"
    return f"model.layers.{layer}.{block}.{part}_proj.{ending}"


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("sharded", [False, True])
def test_weights_are_the_files(tmp_path: Path, kind: str, sharded: bool) -> None:
    size = {"max_shard_size": "60KB"} if sharded else {}
    parameters = save(tmp_path, CONFIGS[kind], **size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == sharded
    weights = opened(tmp_path).weights
    assert {hf_name(name) for name in weights.names()} == set(parameters)
    for name in weights.names():
        assert torch.equal(weights.get(name, torch.float32), parameters[hf_name(name)])
        assert np.array_equal(weights.values(name), parameters[hf_name(name)].numpy())
    assert weights.nbytes == 4 * sum(p.numel() for p in parameters.values())


def test_bfloat16_files(tmp_path: Path) -> None:
    save(tmp_path, CONFIGS["qwen2"])
    tensors = {k: v.bfloat16() for k, v in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = opened(tmp_path).weights
    expected = tensors["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(weights.get("layers.0.q", torch.float32), expected.float())
    stored = weights.stored("layers.0.q")
    assert (stored.type, stored.shape, stored.data.shape) == ("BF16", (64, 64), (64, 128))
    assert torch.equal(torch.from_numpy(stored.data).view(torch.bfloat16), expected)
    assert torch.equal(torch.from_numpy(weights.values("layers.0.q")), expected.float())


def test_float16_files(tmp_path: Path) -> None:
    save(tmp_path, CONFIGS["qwen2"])
    tensors = {k: v.half() for k, v in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = opened(tmp_path).weights
    for name in weights.names():
        expected = tensors[hf_name(name)].float()
        assert torch.equal(weights.get(name, torch.float32), expected)
        assert torch.equal(torch.from_numpy(weights.values(name)), expected)


def test_a_file_cut_after_it_was_opened(tmp_path: Path) -> None:
    save(tmp_path, CONFIGS["tied"])
    weights = opened(tmp_path).weights
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    last = max(weights.names(), key=lambda name: weights._places[name].offset)
    with pytest.raises(ModelError, match="cut short since"):
        weights.values(last)
    path.unlink()
    with pytest.raises(ModelError, match="cannot read"):
        weights.stored("norm")


def test_each_read_is_a_copy(tmp_path: Path) -> None:
    save(tmp_path, CONFIGS["tied"])
    weights = opened(tmp_path).weights
    weights.get("norm", torch.float32).zero_()
    assert weights.get("norm", torch.float32).abs().sum() > 0


def test_end_tokens_come_from_all_files(tmp_path: Path) -> None:
    save(tmp_path, CONFIGS["llama"])
    generation = tmp_path / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [0, 257]}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|endoftext|>"})
    )
    files = opened(tmp_path)
    assert files.eos_ids == {0, 257, 1}
    assert files.bos_id == 0
    generation.write_text(json.dumps({"eos_token_id": 5}))
    assert opened(tmp_path).eos_ids == {5, 1}
    generation.unlink()
    assert opened(tmp_path).eos_ids == {2, 1}  # config.json's


def test_truncation_in_the_tokenizer_file_is_not_applied(tmp_path: Path) -> None:
    save(tmp_path, CONFIGS["llama"])
    assert len(opened(tmp_path).tokenizer.encode("a long enough text")) > 4


def test_chat_template_files(tmp_path: Path) -> None:
    save(tmp_path, CONFIGS["llama"])
    assert opened(tmp_path).chat_template is None
    messages = [{"role": "user", "content": "x"}]
    named = [
        {"name": "default", "template": "D{{ bos_token }}"},
        {"name": "tool_use", "template": "T"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": named, "bos_token": "<B>"})
    )
    template = opened(tmp_path).chat_template
    assert template is not None
    assert template.render(messages) == "D<B>"
    assert template.render(messages, tools=[{"type": "function"}]) == "T"
    (tmp_path / "chat_template.jinja").write_text("J{{ messages[0].content }}")
    template = opened(tmp_path).chat_template
    assert template is not None
    assert template.render(messages) == "Jx"


def test_description(tmp_path: Path) -> None:
    parameters = save(tmp_path, CONFIGS["qwen3"], max_shard_size="60KB")
    found = describe(resolve(str(tmp_path)))
    count = sum(p.numel() for p in parameters.values())
    assert (found.architecture, found.parameters, found.kind) == ("qwen3", count, "hf")
    assert [(t.type, t.count, t.nbytes) for t in found.tensor_types] == [
        ("F32", len(parameters), 4 * count)
    ]
    assert found.file_bytes > 4 * count
    assert (found.chat_template, found.tools, found.max_context) == (False, False, 256)
    assert "byte-level" in found.tokenizer


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "no tokenizer.json"),
        ("model.safetensors", "no file 'model.safetensors'"),
    ],
)
def test_missing_files(tmp_path: Path, missing: str, message: str) -> None:
    save(tmp_path, CONFIGS["llama"])
    (tmp_path / missing).unlink()
    with pytest.raises(ModelError, match=message):
        opened(tmp_path)


def test_missing_shard_and_shard_elsewhere(tmp_path: Path) -> None:
    save(tmp_path, CONFIGS["llama"], max_shard_size="60KB")
    index = tmp_path / "model.safetensors.index.json"
    shard = next(tmp_path.glob("model-00002*"))
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ModelError, match="model-00002"):
        opened(tmp_path)
    shard.write_bytes(content)
    values = json.loads(index.read_text())
    values["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="not beside it"):
        opened(tmp_path)


def test_missing_extra_and_misshapen_tensors(tmp_path: Path) -> None:
    save(tmp_path, CONFIGS["llama"])
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"no tensor 'model\.norm\.weight'"):
        opened(tmp_path)
    save_file(tensors | {"model.norm.weight": norm[:32].clone()}, path)
    with pytest.raises(ModelError, match=r"'model\.norm\.weight' has the shape \[32\]"):
        opened(tmp_path)
    save_file(tensors | {"model.norm.weight": norm.double()}, path)
    with pytest.raises(ModelError, match="type F64; supported are F32"):
        opened(tmp_path)
    extra = {"model.norm.weight": norm, "model.layers.0.mlp.experts.0.w1.weight": norm.clone()}
    save_file(tensors | extra, path)
    with pytest.raises(ModelError, match="experts"):
        opened(tmp_path)
    frequencies = {"model.norm.weight": norm, "model.rotary_emb.inv_freq": norm.clone()}
    save_file(tensors | frequencies, path)
    assert "norm" in opened(tmp_path).weights.names()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf")
    save(path, CONFIGS["tied"])
    return path


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut or changed files: a ModelError or a model, nothing else."""
    place = folder.parent / "damaged"
    place.mkdir(exist_ok=True)
    names = ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"]
    victim = data.draw(st.sampled_from(names))
    for name in names:
        content = bytearray((folder / name).read_bytes())
        if name == victim:
            at = data.draw(st.integers(0, min(len(content) - 1, 6000)))
            if data.draw(st.booleans()):
                del content[at:]
            else:
                content[at] = data.draw(st.integers(0, 255))
        (place / name).write_bytes(content)
    try:
        files = opened(place)
        for name in files.weights.names():
            files.weights.get(name, torch.float32)
        files.tokenizer.decode(files.tokenizer.encode("hello<|im_end|>"))
    except ModelError:
        pass
