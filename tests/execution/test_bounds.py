"""Bounds of a model: what its rooflines say, format by format."""

from __future__ import annotations

import pytest

from headrace.execution.bounds import BATCH, CONTEXT, PROMPT, bounds_by_format, bounds_of
from headrace.execution.roofline import Roofline
from tests.execution.test_roofline import FLOAT, INT8, PEAKS
from tests.execution.tiny import RandomWeights, tiny_config


def test_bounds_are_the_roofline_s() -> None:
    roofline = Roofline(tiny_config(), INT8, PEAKS)
    found = bounds_of("int8", roofline, 1024)
    assert (found.context, found.rows, found.batch) == (CONTEXT, PROMPT, BATCH)
    assert found.one_stream == pytest.approx(1 / roofline.work((511,), (1,), 1).seconds)
    assert found.streams == pytest.approx(64 / roofline.work([511] * 64, [1] * 64, 64).seconds)
    assert found.prompt == pytest.approx(512 / roofline.work((0,), (512,), 1).seconds)
    assert bounds_of("int8", roofline, 100).context == 100
    assert f"{found.one_stream:,.0f} tokens/s of one stream" in found.describe()


def test_every_format_has_bounds() -> None:
    config = tiny_config()
    found = bounds_by_format(config, RandomWeights(config), PEAKS)
    assert [b.weights for b in found] == ["float32", "bf16", "int8", "native"]
    assert found[0] == bounds_of("float32", Roofline(config, FLOAT, PEAKS), config.max_context)
    rates = [b.one_stream for b in found]
    assert rates[0] < rates[1] < rates[2]  # fewer bytes a weight
