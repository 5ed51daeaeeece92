"""Bounds: what the machine's limits allow a model at best, format by format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.execution.roofline import PRODUCTS, Roofline, weight_format

if TYPE_CHECKING:
    from headrace.execution.peaks import Peaks
    from headrace.models.config import ModelConfig
    from headrace.models.weights import WeightReader

CONTEXT, BATCH, PROMPT = 512, 64, 512


@dataclass(frozen=True, slots=True)
class Bounds:
    """Most tokens per second: decoding one stream, ``batch`` streams together, each at ``context``
    tokens, and computing a prompt in one step of ``rows`` rows."""

    weights: str
    one_stream: float
    streams: float
    prompt: float
    context: int
    batch: int
    rows: int

    def describe(self) -> str:
        return (
            f"at best {self.one_stream:,.0f} tokens/s of one stream, {self.streams:,.0f} of"
            f" {self.batch} (context {self.context}), {self.prompt:,.0f} of a prompt"
        )


def bounds_of(weights: str, roofline: Roofline, max_context: int) -> Bounds:
    """What ``roofline`` allows a model of at most ``max_context`` tokens; ``weights`` names it."""
    context, rows = min(CONTEXT, max_context), min(PROMPT, max_context)
    return Bounds(
        weights=weights,
        one_stream=roofline.decode(1, context),
        streams=roofline.decode(BATCH, context),
        prompt=roofline.prompt(rows),
        context=context,
        batch=BATCH,
        rows=rows,
    )


def bounds_by_format(config: ModelConfig, stored: WeightReader, peaks: Peaks) -> list[Bounds]:
    """Of each format of weights, with the cache in bf16 (in float32 for float32)."""
    found = []
    for weights in PRODUCTS:
        cache = "float32" if weights == "float32" else "bf16"
        roofline = Roofline(config, weight_format(weights, config, stored, cache), peaks)
        found.append(bounds_of(weights, roofline, config.max_context))
    return found
