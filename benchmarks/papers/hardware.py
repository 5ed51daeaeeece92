"""The papers' hardware: a described model on described devices, as a simulated engine."""

from __future__ import annotations

from benchmarks.papers.setup import STEP_ROWS
from benchmarks.papers.simulated import SimulatedEngine
from headrace.simulation.analytic_cost import AnalyticCost, cache_blocks
from headrace.simulation.device import load_device
from headrace.simulation.model_shape import load_shape


def gpus(
    model: str,
    device: str,
    *,
    tensor: int = 1,
    stages: int = 1,
    step_tokens: int = STEP_ROWS,
    token_budget: int = 512,
    block_size: int = 16,
) -> SimulatedEngine:
    """Built-in shapes and devices; the cache is what a device has left beside the weights."""
    found, shape = load_device(device), load_shape(model)
    assert shape is not None, f"there is no shape {model}"
    count = tensor * stages
    split = f" (tensor {tensor}, pipeline {stages})" if stages > 1 else ""
    return SimulatedEngine(
        name=f"{model} on {f'{count} x ' if count > 1 else ''}{found.name}{split}",
        cost=AnalyticCost(found, shape, tensor=tensor, stages=stages),
        blocks=cache_blocks(found, shape, block_size=block_size, tensor=tensor, stages=stages),
        block_size=block_size,
        step_tokens=step_tokens,
        token_budget=token_budget,
    )
