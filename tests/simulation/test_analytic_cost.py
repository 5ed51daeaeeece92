"""AnalyticCost: counted like the executor's roofline, never below it, splitting as it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from headrace.execution.peaks import Peaks
from headrace.execution.roofline import Roofline, WeightFormat
from headrace.nouns.errors import ConfigError
from headrace.nouns.step_cost import StepLoad
from headrace.simulation.analytic_cost import OVERLAP, AnalyticCost, cache_blocks
from headrace.simulation.device import Device, device_names, load_device
from headrace.simulation.model_shape import ModelShape, load_shape
from tests.execution.tiny import tiny_config
from tests.scheduling.test_linear_cost import loads

PEAKS = Peaks(bandwidth=1e9, float32=1e11, bfloat16=2e11, int8=4e11)
IDEAL = Device(
    name="ideal", kind="cpu", peak={"float32": 1e11, "bfloat16": 2e11, "int8": 4e11}, memory=1e9,
    bandwidth=1e9, products=1.0, attention=1.0, reading=1.0, sources={},
)  # fmt: skip
CONFIG = tiny_config()
SHAPE = ModelShape(
    name="tiny", layers=CONFIG.num_layers, hidden=CONFIG.hidden_size, heads=CONFIG.num_heads,
    kv_heads=CONFIG.num_kv_heads, head_dim=CONFIG.head_dim,
    intermediate=CONFIG.intermediate_size, vocabulary=CONFIG.vocab_size,
    max_context=CONFIG.max_context, matrix_bits=5.0, head_bits=8.0, products="int8",
)  # fmt: skip


def shape(name: str) -> ModelShape:
    found = load_shape(name)
    assert found is not None
    return found


def decode(batch: int, context: int) -> StepLoad:
    pairs = batch * context
    return StepLoad(
        rows=batch, slices=batch, decodes=batch, samples=batch, pairs=pairs, decode_pairs=pairs,
        sample_pairs=pairs, read=pairs - batch,
    )  # fmt: skip


@given(loads())
def test_without_losses_it_is_about_the_roofline_and_never_below(load: StepLoad) -> None:
    load = load._replace(rows=load.rows + 1, padding=0)
    roofline = Roofline(CONFIG, WeightFormat("int8", 5.0, 8.0, "bfloat16", 16.0), PEAKS)
    bound = roofline.bound(load.rows, load.samples, load.pairs, load.sample_pairs, load.read)
    seconds = AnalyticCost(IDEAL, SHAPE).seconds(load)
    assert bound.seconds * (1 - 1e-9) <= seconds <= 2 ** (1 / OVERLAP) * bound.seconds


def test_far_from_the_ridge_it_is_the_roofline() -> None:
    roofline = Roofline(CONFIG, WeightFormat("int8", 5.0, 8.0, "bfloat16", 16.0), PEAKS)
    for load in (decode(1, 10), StepLoad(rows=9000, slices=1, pairs=9000)):
        bound = roofline.bound(load.rows, load.samples, load.pairs, load.sample_pairs, load.read)
        assert AnalyticCost(IDEAL, SHAPE).seconds(load) == pytest.approx(bound.seconds, rel=0.01)


@pytest.mark.parametrize("name", device_names())
@settings(max_examples=15)
@given(loads(), loads())
def test_losses_cost_time_and_more_work_more(name: str, load: StepLoad, more: StepLoad) -> None:
    device, llama = load_device(name), shape("llama-2-7b")
    ideal = replace(
        device, products=1.0, attention=1.0, reading=1.0, step_overhead=0.0, layer_overhead=0.0,
        sequence_overhead=0.0,
    )  # fmt: skip
    cost = AnalyticCost(device, llama)
    assert cost.seconds(load) >= AnalyticCost(ideal, llama).seconds(load)
    assert cost.seconds(load + more) >= cost.seconds(load) * (1 - 1e-12)


def test_tensor_parallelism_divides_work_and_adds_sums() -> None:
    device = load_device("a100-80g")
    llama = shape("llama-2-70b")
    slow_link = replace(device, link_latency=1e-3)
    four = AnalyticCost(device, llama, tensor=4).seconds(decode(32, 1000))
    eight = AnalyticCost(device, llama, tensor=8).seconds(decode(32, 1000))
    assert four > eight > four / 2
    # 80 layers sum twice, in 2 x 7 hops.
    late = AnalyticCost(slow_link, llama, tensor=8).seconds(decode(32, 1000))
    assert late - eight == pytest.approx(80 * 2 * 14 * (1e-3 - device.link_latency))


def test_pipelines_take_steps_sooner_than_they_end() -> None:
    device, llama = load_device("a100-80g"), shape("llama-2-13b")
    one, four = (AnalyticCost(device, llama, stages=n) for n in (1, 4))
    load = decode(16, 500)
    assert one.stage_seconds(load) == one.seconds(load)
    assert four.seconds(load) > one.seconds(load)
    assert one.seconds(load) / 4 < four.stage_seconds(load) < one.seconds(load)


def test_published_step_times_of_llama_2_7b_on_an_a100() -> None:
    """All layers without attention, overheads of the step left out, as Vidur's authors measured
    them (data/profiling/compute/a100/meta-llama/Llama-2-7b-hf/mlp.csv: sum of the means of all
    operators, times 32 layers)."""
    device = replace(load_device("a100-80g"), step_overhead=0.0, sequence_overhead=0.0)
    cost = AnalyticCost(device, shape("llama-2-7b"))
    for rows, milliseconds in (
        (1, 9.5),
        (64, 9.7),
        (128, 12.3),
        (384, 23.5),
        (512, 33.1),
        (4096, 254.8),
    ):
        assert 1e3 * cost.seconds(StepLoad(rows=rows)) == pytest.approx(milliseconds, rel=0.1)


def test_what_fits_beside_the_weights() -> None:
    device, llama = load_device("a100-80g"), shape("llama-2-7b")
    blocks = cache_blocks(device, llama)
    held = blocks * 16 * llama.token_bytes + llama.weight_bytes
    assert 0.85 * device.memory < held <= 0.9 * device.memory
    assert cache_blocks(device, llama, tensor=2) > 2 * blocks
    assert cache_blocks(device, llama, stages=2) > 2 * blocks
    assert cache_blocks(device, replace(llama, cache_bits=8.0)) >= 2 * blocks
    with pytest.raises(ConfigError, match="does not fit"):
        cache_blocks(device, shape("llama-2-70b"))
    # Key-value heads cannot be cut: 16 devices hold those of 8 twice.
    eight, sixteen = (
        cache_blocks(device, shape("llama-2-70b"), tensor=n, memory_share=0.9) for n in (8, 16)
    )
    assert sixteen < 1.2 * eight


@pytest.mark.parametrize(
    ("name", "tensor", "stages", "message"),
    [("a100-80g", 0, 1, "at least 1"), ("a100-80g", 3, 1, "share evenly"),
     ("a100-80g", 1, 33, "stages"), ("xeon-8480", 2, 1, "no link")],
)  # fmt: skip
def test_splits_that_cannot_be(name: str, tensor: int, stages: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnalyticCost(load_device(name), shape("llama-2-7b"), tensor=tensor, stages=stages)
