"""Operations, bytes and the least time of steps, against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from headrace.execution.peaks import Peaks
from headrace.execution.roofline import Roofline, WeightFormat, weight_format
from headrace.models.config import ModelConfig
from headrace.models.loader import open_model
from headrace.models.source import resolve
from tests.execution.tiny import RandomWeights, tiny_config
from tests.models.tiny import write_gguf

# 2 layers of q and o 96 x 192, k and v 96 x 64, three of 96 x 150; 160 x 96 as output matrix.
LAYER = 2 * 96 * 192 + 2 * 96 * 64 + 3 * 96 * 150
STATE_MATRICES = 2 * 96 * 64  # of keys and values, all that unsampled rows need of the last layer
MATRICES = 2 * LAYER
HEAD = 160 * 96
STATE = 2 * 2 * 2 * 32  # numbers a token keeps: layers, key and value, heads, their size
PAIR = 4 * 6 * 32  # operations a row and position in a layer: query heads, their size
PEAKS = Peaks(bandwidth=1e9, float32=1e11, bfloat16=2e11, int8=4e11)
FLOAT = WeightFormat("float32", 32.0, 32.0, "float32", 32.0)
INT8 = WeightFormat("int8", 5.0, 8.0, "bfloat16", 16.0)


def smollm2() -> ModelConfig:
    """The shape of the default model."""
    return tiny_config(
        hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64,
        intermediate_size=1536, vocab_size=49152, max_context=8192, tied_embeddings=True,
    )  # fmt: skip


def test_one_decoded_token_by_hand() -> None:
    work = Roofline(tiny_config(), FLOAT, PEAKS).work((9,), (1,), 1)
    assert work.operations == 2 * MATRICES + 2 * HEAD + 2 * 10 * PAIR
    # 9 tokens' state read, one written.
    assert work.bytes == 4 * MATRICES + 4 * HEAD + 10 * STATE * 4
    assert work.seconds == pytest.approx(work.bytes / 1e9)  # all three are bound by memory


def test_a_prompt_is_bound_by_operations() -> None:
    work = Roofline(tiny_config(), INT8, PEAKS).work((0,), (1000,), 1)
    pairs = 1000 * 1001 // 2
    # The last layer's row that samples sees 1000 positions.
    products = 2 * (1000 * (LAYER + STATE_MATRICES) + LAYER - STATE_MATRICES)
    attention = (pairs + 1000) * PAIR
    assert work.operations == products + 2 * HEAD + attention
    assert work.bytes == MATRICES * 5 / 8 + HEAD + 1000 * STATE * 2
    expected = products / 4e11  # more than 5/8 MATRICES / 1e9
    expected += HEAD / 1e9  # more than 2 HEAD / 4e11
    expected += max(attention / 2e11, 1000 * STATE * 2 / 1e9)
    assert work.seconds == pytest.approx(expected)


def test_slices_of_a_mixed_step_add_up() -> None:
    roofline = Roofline(tiny_config(), INT8, PEAKS)
    mixed = roofline.work((7, 0, 5), (1, 3, 2), 2)
    # Rows at positions 7; 0, 1, 2; 5, 6 see so many positions:
    pairs = 8 + (1 + 2 + 3) + (6 + 7)
    last = (8 + 3 + 7) * 2 / 3  # two of three slices sample
    assert mixed == roofline.bound(rows=6, samples=2, pairs=pairs, last=last, read=7 + 0 + 5)


def test_nothing_is_read_for_a_head_that_nobody_asks_for() -> None:
    roofline = Roofline(tiny_config(), INT8, PEAKS)
    without, with_head = roofline.work((0,), (4,), 0), roofline.work((0,), (4,), 1)
    assert with_head.bytes - without.bytes == HEAD
    rest = 2 * (LAYER - STATE_MATRICES) + 4 * PAIR  # the last layer of the row that samples
    assert with_head.operations - without.operations == 2 * HEAD + rest
    assert roofline.work((), (), 0).seconds == 0.0


@given(
    slices=st.lists(st.tuples(st.integers(0, 500), st.integers(1, 50)), min_size=1, max_size=8),
    as_arrays=st.booleans(),
)
def test_pairs_are_those_of_the_rows_one_by_one(
    slices: list[tuple[int, int]], as_arrays: bool
) -> None:
    roofline = Roofline(tiny_config(), INT8, PEAKS)
    starts, lengths = (tuple(part) for part in zip(*slices, strict=True))
    pairs = sum(start + i + 1 for start, length in slices for i in range(length))
    ends = sum(starts) + sum(lengths)
    expected = roofline.bound(sum(lengths), len(slices), pairs, ends, sum(starts))
    if as_arrays:
        found = roofline.work(
            np.array(starts, dtype=np.int32), np.array(lengths, dtype=np.int32), len(slices)
        )
    else:
        found = roofline.work(starts, lengths, len(slices))
    assert found == expected


def test_long_contexts_do_not_overflow() -> None:
    starts, lengths = np.full(64, 1 << 20, np.int32), np.full(64, 1 << 14, np.int32)
    work = Roofline(tiny_config(), INT8, PEAKS).work(starts, lengths, 0)
    assert work.operations > 64 * (1 << 34) * PAIR


def test_the_default_model_on_the_machine_of_the_issue() -> None:
    """47 GB/s, 890 GFLOP/s bf16 and 2,000 GOP/s int8 gave 164 tokens/s of one stream in bf16."""
    peaks = Peaks(bandwidth=47e9, float32=445e9, bfloat16=890e9, int8=2000e9)
    config = smollm2()
    bf16 = Roofline(config, weight_format("bf16", config, None), peaks)
    weights = 2 * (config.num_parameters - 576 * 61)  # the matrices, tied, without the norms
    assert bf16.decode(1, 1) == pytest.approx(47e9 / (weights + 23040), rel=1e-6)
    assert 160 < bf16.decode(1, 500) < 175
    int8 = Roofline(config, weight_format("int8", config, None), peaks)
    assert int8.decode(1, 500) == pytest.approx(2 * bf16.decode(1, 500), rel=0.1)
    assert 6000 < int8.prompt(1024) < 8000
    assert int8.prompt(512) == pytest.approx(512 / int8.work((0,), (512,), 1).seconds)
    assert int8.decode(64, 256) == pytest.approx(64 / int8.work([255] * 64, [1] * 64, 64).seconds)


def test_formats_of_a_file_without_blocks() -> None:
    config, weights = tiny_config(), RandomWeights(tiny_config())
    found = {name: weight_format(name, config, weights) for name in ("float32", "bf16", "int8")}
    assert [found[n].matrix_bits for n in found] == [32.0, 16.0, 8.0]
    assert [found[n].head_bits for n in found] == [32.0, 16.0, 8.0]
    assert [found[n].products for n in found] == ["float32", "bfloat16", "int8"]
    assert weight_format("native", config, weights).matrix_bits == 8.5  # converted to Q8_0
    assert weight_format("float32", config, None, "float32").attention == "float32"
    assert weight_format("int8", config, None, "int8").cache_bits == 8.0
    with pytest.raises(KeyError):
        weight_format("int3", config, None)


@pytest.mark.parametrize(
    ("name", "native", "int8"),
    [("Q4_0", 4.5, 5.0), ("Q4_1", 5.0, 5.0), ("Q8_0", 8.5, 8.0), ("Q6_K", 8.5, 8.0)],
)
def test_formats_of_a_file_of_blocks(tmp_path: Path, name: str, native: float, int8: float) -> None:
    write_gguf(tmp_path / "m.gguf", "qwen2", GGMLQuantizationType[name])
    files = open_model(resolve(str(tmp_path / "m.gguf")))
    found = weight_format("native", files.config, files.weights)
    assert (found.matrix_bits, found.products) == (native, "int8")
    assert weight_format("int8", files.config, files.weights).matrix_bits == int8
