"""GGUF files: every tensor type, the order of rows, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType

from headrace.models.gguf_file import GgufFile
from headrace.models.gguf_types import supported_types
from headrace.models.loader import ModelFiles, open_model
from headrace.models.source import ModelSource
from headrace.nouns.errors import ModelError
from tests.models.tiny import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, write_gguf


def opened(path: Path) -> ModelFiles:
    return open_model(ModelSource("tiny", path, "gguf"))


def interleaved(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """How files store q and k of llama models: the halves of each head row by row in turns."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def test_every_type_that_gguf_dequantises_is_supported() -> None:
    assert {
        "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K",
        "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "IQ1_S", "TQ1_0", "MXFP4",
    } <= set(supported_types())  # fmt: skip


@pytest.mark.parametrize("name", supported_types())
def test_values_are_those_of_the_gguf_package(tmp_path: Path, name: str) -> None:
    qtype = GGMLQuantizationType[name]
    raw = write_gguf(tmp_path / "m.gguf", "qwen2", qtype)
    weights = opened(tmp_path / "m.gguf").weights
    for canonical, stored in {
        "embed": "token_embd.weight",
        "layers.1.q": "blk.1.attn_q.weight",
        "layers.0.down": "blk.0.ffn_down.weight",
    }.items():
        with np.errstate(all="ignore"):
            expected = gguf.quants.dequantize(raw[stored], qtype)
        got = weights.get(canonical, torch.float32).numpy()
        assert got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(weights.values(canonical), expected)
        half = weights.get(canonical, torch.bfloat16)
        assert torch.equal(half, torch.from_numpy(got).bfloat16()) or np.isnan(got).any()
    bias = weights.get("layers.0.q_bias", torch.float32).numpy()
    np.testing.assert_array_equal(bias, raw["blk.0.attn_q.bias"])


@pytest.mark.parametrize("name", ["F32", "Q4_1", "Q8_0"])
def test_query_and_key_rows_of_llama_come_in_halves(tmp_path: Path, name: str) -> None:
    qtype = GGMLQuantizationType[name]
    rng = np.random.default_rng(1)
    plain = {
        "q": gguf.quants.quantize(rng.standard_normal((HIDDEN, HIDDEN), np.float32), qtype),
        "k": gguf.quants.quantize(
            rng.standard_normal((KV_HEADS * HEAD_DIM, HIDDEN), np.float32), qtype
        ),
    }
    heads = {"q": HEADS, "k": KV_HEADS}
    changed = {f"blk.0.attn_{p}.weight": interleaved(plain[p], heads[p]) for p in plain}
    write_gguf(tmp_path / "m.gguf", "llama", qtype, tensors=changed)
    weights = opened(tmp_path / "m.gguf").weights
    for part, data in plain.items():
        expected = gguf.quants.dequantize(data, qtype)
        got = weights.get(f"layers.0.{part}", torch.float32).numpy()
        np.testing.assert_array_equal(got, expected)
        stored = weights.stored(f"layers.0.{part}")
        assert stored.type == name
        np.testing.assert_array_equal(stored.data, data.view(np.uint8).reshape(data.shape[0], -1))


def test_other_architectures_store_halves_already(tmp_path: Path) -> None:
    raw = write_gguf(tmp_path / "m.gguf", "qwen3")
    got = opened(tmp_path / "m.gguf").weights.get("layers.0.q", torch.float32).numpy()
    np.testing.assert_array_equal(got, raw["blk.0.attn_q.weight"])


def test_header_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    extra = {"a.negative": -3.5, "a.flag": True, "a.list": [1, 2, 3], "a.text": "café"}
    write_gguf(tmp_path / "m.gguf", metadata=extra)
    ours, theirs = GgufFile.open(tmp_path / "m.gguf"), gguf.GGUFReader(tmp_path / "m.gguf")
    for key, value in ours.metadata.items():
        assert value == theirs.fields[key].contents()
    assert set(extra) < set(ours.metadata)
    assert len(theirs.tensors) == len(ours.tensors)
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert info.offset == tensor.data_offset
        assert info.nbytes == tensor.n_bytes
        assert info.shape == tuple(int(d) for d in reversed(tensor.shape))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_configuration(tmp_path: Path, architecture: str) -> None:
    write_gguf(tmp_path / "m.gguf", architecture)
    files = opened(tmp_path / "m.gguf")
    config = files.config
    assert config.architecture == architecture
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (LAYERS, HEADS, KV_HEADS)
    assert config.head_dim == HEAD_DIM
    assert config.attention_bias == (architecture == "qwen2")
    assert config.qk_norm == (architecture == "qwen3")
    assert not config.tied_embeddings
    assert files.weights.names() == list(config.weight_shapes())
    total = sum(files.weights.get(n, torch.float32).numel() for n in files.weights.names())
    assert total == config.num_parameters
    assert files.weights.nbytes == 4 * total


def test_missing_output_head_means_tied(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", without=["output.weight"])
    files = opened(tmp_path / "m.gguf")
    assert files.config.tied_embeddings
    assert "head" not in files.weights.names()


def test_rope_divisors_are_the_llama3_scaling(tmp_path: Path) -> None:
    divisors = np.linspace(1.0, 8.0, HEAD_DIM // 2, dtype=np.float32)
    write_gguf(tmp_path / "m.gguf", tensors={"rope_freqs.weight": divisors})
    rope = opened(tmp_path / "m.gguf").config.rope
    assert rope.kind == "llama3"
    plain = 10000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    np.testing.assert_allclose(rope.inverse_frequencies(HEAD_DIM), plain / divisors, rtol=1e-12)


def test_linear_and_yarn_scaling(tmp_path: Path) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    write_gguf(tmp_path / "a.gguf", metadata=scaling)
    rope = opened(tmp_path / "a.gguf").config.rope
    assert (rope.kind, rope.factor) == ("linear", 4.0)
    write_gguf(tmp_path / "b.gguf", metadata={"llama.rope.scale_linear": 2.0})
    rope = opened(tmp_path / "b.gguf").config.rope
    assert (rope.kind, rope.factor) == ("linear", 2.0)
    scaling["llama.rope.scaling.type"] = "yarn"
    original = {"llama.rope.scaling.original_context_length": 256}
    write_gguf(tmp_path / "c.gguf", metadata=scaling | original)
    config = opened(tmp_path / "c.gguf").config
    assert (config.rope.kind, config.rope.original_max_position) == ("yarn", 256)
    assert config.rope.attention_factor == pytest.approx(0.1 * np.log(4.0) + 1.0)
    assert config.max_context == 1024
    assert "yarn" in config.context_note


def test_sliding_window_limits_the_context(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", metadata={"llama.attention.sliding_window": 128})
    config = opened(tmp_path / "m.gguf").config
    assert (config.max_context, config.sliding_window) == (128, 128)
    assert "sliding-window" in config.context_note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "'bert' is not supported; supported are gpt2"),
        ({"tokenizer.ggml.pre": "tekken"}, "'tekken' is not supported; supported are .*smollm"),
        ({"tokenizer.ggml.pre": None}, "'none' is not supported"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "2 token types"),
        ({"tokenizer.ggml.merges": ["h zzz"]}, "do not fit together"),
        ({"llama.expert_count": 8}, "mixture of 8 experts"),
        ({"llama.rope.scaling.type": "longrope"}, "'longrope' is not supported"),
        ({"llama.rope.dimension_count": 32}, "partial rotary"),
        ({"llama.attention.head_count": 3}, "multiple"),
        ({"llama.attention.head_count_kv": [2, 1]}, "differs between layers"),
        ({"llama.block_count": 3}, "no tensor for 'layers.2"),
        ({"llama.block_count": 1}, "blk.1.* does not have"),
        ({"llama.block_count": "two"}, "'llama.block_count' must be a whole number"),
        ({"llama.context_length": None}, "no 'llama.context_length'"),
        ({"llama.feed_forward_length": 512}, "shape"),
        ({"split.count": 3}, "one of 3 parts"),
    ],
)
def test_refusals_name_the_thing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_gguf(tmp_path / "m.gguf", metadata=changes)
    with pytest.raises(ModelError, match=message):
        opened(tmp_path / "m.gguf")


def test_unknown_architecture(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", "gemma3")
    with pytest.raises(ModelError, match=r"'gemma3' is not supported; supported .* llama, qwen2"):
        opened(tmp_path / "m.gguf")


def test_unknown_tensor_is_not_ignored(tmp_path: Path) -> None:
    odd = {"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}
    write_gguf(tmp_path / "m.gguf", tensors=odd)
    with pytest.raises(ModelError, match="attn_sinks"):
        opened(tmp_path / "m.gguf")


def test_type_that_cannot_be_dequantised(tmp_path: Path) -> None:
    ints = {"blk.0.attn_norm.weight": np.zeros(HIDDEN, np.int32)}
    write_gguf(tmp_path / "m.gguf", tensors=ints)
    with pytest.raises(ModelError, match=r"type number 26.*supported are BF16"):
        opened(tmp_path / "m.gguf")


def test_not_gguf_and_not_there(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(ModelError, match="cannot read"):
        opened(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelError, match="not a GGUF file"):
        opened(path)
    path.write_bytes(b"GGUF" + (1).to_bytes(4, "little") + bytes(100))
    with pytest.raises(ModelError, match="version 1; supported"):
        opened(path)
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "big") + bytes(100))
    with pytest.raises(ModelError, match="big-endian"):
        opened(path)


def test_file_cut_after_opening(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    files = opened(tmp_path / "m.gguf")
    content = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cut short"):
        files.weights.get("layers.1.down", torch.float32)


def test_default_model(default_model: ModelFiles) -> None:
    config = default_model.config
    assert (config.architecture, config.num_layers, config.hidden_size) == ("llama", 30, 576)
    assert (config.vocab_size, config.max_context, config.rope.theta) == (49152, 8192, 100000.0)
    assert config.tied_embeddings
    assert config.num_parameters == 134_515_008
    assert 2 in default_model.eos_ids
    assert default_model.bos_id == 1
    embed = default_model.weights.get("embed", torch.bfloat16)
    assert embed.shape == (49152, 576)
    assert bool(torch.isfinite(embed).all())


def test_opening_imports_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_gguf(tmp_path / "m.gguf")
    code = (
        "import sys; from pathlib import Path\n"
        "from headrace.models.loader import open_model\n"
        "from headrace.models.source import ModelSource\n"
        "open_model(ModelSource('m', Path(sys.argv[1]), 'gguf'))\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.gguf")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert re.fullmatch(r"\[\]\s*", out.stdout)
