"""Bottleneck: the shares follow from what a step has to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.nouns.step_cost import StepLoad
from headrace.simulation.analytic_cost import AnalyticCost
from headrace.simulation.bottleneck import EVERY, Bottleneck
from headrace.simulation.device import load_device
from headrace.simulation.model_shape import load_shape

SHAPE = load_shape("llama-2-7b")
DEVICE = replace(load_device("a100-80g"), step_overhead=0.0, layer_overhead=0.0,
                 sequence_overhead=0.0)  # fmt: skip
DECODE = StepLoad(rows=4, slices=4, decodes=4, samples=4, pairs=4000, decode_pairs=4000,
                  sample_pairs=4000, read=3996)  # fmt: skip
PREFILL = StepLoad(rows=2048, slices=1, samples=1, pairs=2048 * 2049 // 2, sample_pairs=2048)


def shares(load: StepLoad, overhead: float = 0.0) -> dict[str, float]:
    assert SHAPE is not None
    found = Bottleneck(AnalyticCost(replace(DEVICE, step_overhead=overhead), SHAPE))
    found(load)
    return found.shares


def test_few_decodes_wait_for_memory() -> None:
    found = shares(DECODE)
    assert found["bandwidth"] > 0.95
    assert found["compute"] < 0.01
    assert found["limit"] == pytest.approx(DEVICE.reading, rel=0.01)


def test_a_long_prompt_waits_for_the_products() -> None:
    found = shares(PREFILL)
    assert found["compute"] > 0.9
    assert found["bandwidth"] < 0.05
    assert found["limit"] == pytest.approx(DEVICE.products, rel=0.05)


def test_overhead_is_what_no_faster_device_saves() -> None:
    bare = shares(DECODE)
    assert SHAPE is not None
    seconds = AnalyticCost(DEVICE, SHAPE).seconds(DECODE)
    found = shares(DECODE, overhead=seconds)
    assert bare["overhead"] < 0.01
    assert found["overhead"] == pytest.approx(0.5, abs=0.01)
    assert found["limit"] == pytest.approx(bare["limit"] / 2)


def test_one_of_many_steps_is_looked_into() -> None:
    assert SHAPE is not None
    found = Bottleneck(AnalyticCost(DEVICE, SHAPE))
    assert found.shares == {}
    for _ in range(2 * EVERY):
        found(DECODE)
    assert found.seconds == pytest.approx(2 * AnalyticCost(DEVICE, SHAPE).seconds(DECODE))


def test_split_models_are_compared_split() -> None:
    assert SHAPE is not None
    found = Bottleneck(AnalyticCost(DEVICE, SHAPE, tensor=2))
    found(DECODE)
    assert found.shares["overhead"] > 0.01  # messages between the devices
    assert sum(found.shares[name] for name in ("compute", "bandwidth", "overhead")) <= 1 + 1e-9
