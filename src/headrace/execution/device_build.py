"""What a model takes on a device with its own memory, and how it is made there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from headrace.execution.memory_plan import STEP_ROWS, WeightSizes
from headrace.kernels.device.choose import choose_on_device
from headrace.kernels.device.operators import DeviceOperators
from headrace.models.device_transformer import DeviceTransformer
from headrace.nouns.errors import ConfigError

if TYPE_CHECKING:
    from headrace.models.loader import ModelFiles
    from headrace.models.model import Model

NAMES = {torch.float32: "float32", torch.bfloat16: "bf16"}
# Gathered keys and values, scores and their copies, logits that graphs keep; masks come on top.
ATTENTION_BYTES = 1 << 30
CACHE_SHARE = 0.9  # nothing else needs the memory of a device


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A model on a device before it is made. ``lines`` say what was chosen and why."""

    weights: str
    sizes: WeightSizes
    block_bytes: int
    lines: list[str]
    make: Callable[[int], Model]
    attention_bytes: int


def plan_on_device(
    files: ModelFiles,
    device: torch.device,
    weights: str,
    cache_format: str,
    block_size: int,
    max_context: int,
) -> DevicePlan:
    """Choose operators for ``device`` and count what they need. Raises ConfigError."""
    config = files.config
    dispatch = choose_on_device(device, weights, config.head_dim)
    operators = dispatch.operators
    assert isinstance(operators, DeviceOperators)
    name = NAMES[operators.weight_dtype]
    if cache_format not in ("auto", name):
        raise ConfigError(
            f"cache_format is {cache_format!r}; with weights {name} on {device.type} the cache is"
            f" {name} too: choose auto"
        )
    size = operators.weight_dtype.itemsize
    rows = 2 * config.num_layers * config.num_kv_heads
    return DevicePlan(
        weights=name,
        sizes=WeightSizes(size, size, size),
        block_bytes=rows * block_size * config.head_dim * operators.cache_dtype.itemsize,
        lines=list(dispatch.report),
        make=lambda context: DeviceTransformer(config, files.weights, operators, context),
        attention_bytes=ATTENTION_BYTES + STEP_ROWS * max_context * size,
    )


def device_memory(device: torch.device) -> tuple[int, str]:
    """Bytes that are free on a CUDA device, and of how many."""
    free, total = torch.cuda.mem_get_info(device)
    return free, f"free of {total / 2**30:.1f} GiB on {device}"
