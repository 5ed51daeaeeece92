"""The analytic cost model against step times that others published.

``python -m benchmarks.published_speeds`` prints, for each published figure, what the model says and
how far it is off. Steps on the host are left out (``step`` and ``sequence`` of the device's
overhead), since the engines measured differ in them, and little is left of them in these.

Sources, as stored in 2026: lmdeploy v0.1.0a1, docs/en/benchmark/a100_fp16.md (static batches on
A100-80G: median seconds between tokens; latency of the first token of one sequence); TensorRT-LLM
v0.5 and v0.6.1, docs/source/performance.md (latency of the first token; output tokens per second of
static batches); Headrace itself on a 2-core virtual machine (docs/log.md, "Cost against batch and
context"; the host's share included); Vidur,
data/profiling/compute/a100/meta-llama/Llama-2-7b-hf/mlp.csv (operators of a layer without
attention; means, summed, times 32 layers).
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict, dataclass, replace

from headrace.nouns.step_cost import StepLoad
from headrace.simulation.analytic_cost import AnalyticCost
from headrace.simulation.device import Device, load_device
from headrace.simulation.model_shape import ModelShape, load_shape

LMDEPLOY, TENSORRT, VIDUR = "lmdeploy", "TensorRT-LLM", "Vidur"


@dataclass(frozen=True, slots=True)
class Case:
    """A published figure in milliseconds; ``tensor`` devices compute it."""

    source: str
    device: str
    model: str
    tensor: int
    what: str
    load: StepLoad
    published: float
    weights: str = "bfloat16"


@dataclass(frozen=True, slots=True)
class Throughput:
    """Published output tokens per second of ``batch`` prompts of ``prompt`` tokens, all computed
    first, then ``output`` tokens each."""

    device: str
    model: str
    tensor: int
    batch: int
    prompt: int
    output: int
    published: float
    weights: str = "bfloat16"


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    unit: str
    published: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1


def decode(batch: int, context: int) -> StepLoad:
    pairs = batch * context
    return StepLoad(
        rows=batch, slices=batch, decodes=batch, samples=batch, pairs=pairs, decode_pairs=pairs,
        sample_pairs=pairs, read=pairs - batch,
    )  # fmt: skip


def prompts(count: int, tokens: int) -> StepLoad:
    return StepLoad(
        rows=count * tokens, slices=count, samples=count,
        pairs=count * tokens * (tokens + 1) // 2, sample_pairs=count * tokens,
    )  # fmt: skip


def steps_of(model: str, tensor: int, figures: dict[int, float]) -> list[Case]:
    """lmdeploy's steps in the middle of outputs of 128 tokens after prompts of as many."""
    return [
        Case(LMDEPLOY, "a100-80g", model, tensor, f"step of {batch}", decode(batch, 192), ms)
        for batch, ms in figures.items()
    ]


def first_tokens(
    source: str, device: str, model: str, tensor: int, figures: dict[int, float], weights: str
) -> list[Case]:
    return [
        Case(source, device, model, tensor, f"prompt of {n}", prompts(1, n), ms, weights)
        for n, ms in figures.items()
    ]


HALF = "bfloat16"
CASES = [
    *(Case(VIDUR, "a100-80g", "llama-2-7b", 1, f"layers, {rows} rows", StepLoad(rows=rows), ms)
      for rows, ms in ((1, 9.5), (8, 9.3), (64, 9.7), (128, 12.3), (176, 16.7), (384, 23.5),
                       (512, 33.1), (4096, 254.8))),
    *steps_of("llama-2-7b", 1, {1: 10, 16: 11, 32: 12, 64: 14}),
    *steps_of("llama-2-13b", 1, {1: 17, 16: 19, 32: 21, 64: 24}),
    *steps_of("llama-2-70b", 4, {1: 29, 16: 30, 32: 32, 64: 37}),
    *first_tokens(LMDEPLOY, "a100-80g", "llama-2-7b", 1, {128: 22, 2048: 139}, HALF),
    *first_tokens(LMDEPLOY, "a100-80g", "llama-2-13b", 1, {128: 40, 2048: 242}, HALF),
    *first_tokens(LMDEPLOY, "a100-80g", "llama-2-70b", 4, {128: 74, 2048: 402}, HALF),
    *first_tokens(TENSORRT, "a100-80g", "llama-7b", 1, {128: 16, 2048: 133}, HALF),
    *first_tokens(TENSORRT, "a100-80g", "gpt-j-6b", 1, {128: 12, 2048: 129}, HALF),
    *first_tokens(TENSORRT, "a100-80g", "llama-2-70b", 4, {128: 47, 2048: 377}, HALF),
    *first_tokens(TENSORRT, "a100-80g", "falcon-180b", 8, {128: 61, 2048: 509}, HALF),
    *first_tokens(TENSORRT, "h100-sxm", "llama-7b", 1, {128: 7, 2048: 36}, "float8"),
    *first_tokens(TENSORRT, "h100-sxm", "llama-2-70b", 4, {128: 26, 2048: 109}, "float8"),
    *first_tokens(TENSORRT, "l40s", "llama-7b", 1, {128: 14, 2048: 73}, "float8"),
]  # fmt: skip
THROUGHPUTS = [
    Throughput("a100-80g", "llama-7b", 1, 384, 128, 128, 5586),
    Throughput("a100-80g", "llama-7b", 1, 60, 128, 2048, 1928),
    Throughput("a100-80g", "llama-7b", 1, 52, 2048, 128, 591),
    Throughput("a100-80g", "gpt-j-6b", 1, 60, 2048, 128, 670),
    Throughput("a100-80g", "llama-2-70b", 4, 240, 128, 2048, 4 * 525),
    Throughput("a100-80g", "llama-2-70b", 4, 120, 2048, 128, 4 * 79),
    Throughput("h100-sxm", "llama-7b", 1, 112, 128, 2048, 6818, "float8"),
    Throughput("h100-sxm", "llama-7b", 1, 80, 2048, 128, 2244, "float8"),
    Throughput("l40s", "llama-7b", 1, 64, 128, 128, 3240, "float8"),
    Throughput("l40s", "llama-7b", 1, 32, 2048, 128, 581, "float8"),
]

# The machine of docs/log.md as doctor measured it, with the shares and overheads of the processors
# in simulation/devices.
XEON = load_device("xeon-8480")
OURS = Device(
    name="2-core virtual machine", kind="cpu", memory=24e9, bandwidth=53.5e9,
    peak={"float32": 1.5e11, "bfloat16": 9e11, "int8": 2.011e12}, products=XEON.products,
    attention=XEON.attention, reading=XEON.reading, step_overhead=XEON.step_overhead,
    sequence_overhead=XEON.sequence_overhead, sources={},
)  # fmt: skip
OUR_STEPS = {
    128: {1: 2.45, 8: 4.2, 64: 19.4, 128: 37.5},
    512: {1: 2.56, 8: 6.2, 64: 34.8, 128: 67.2},
    2048: {1: 3.0, 8: 11.6, 64: 80.2, 128: 151.0},
    8192: {1: 8.3, 8: 47.8},
}  # milliseconds by context and batch


def check_ours() -> list[Result]:
    shape = load_shape("smollm2-135m")
    assert shape is not None
    # Four bits a weight of the layers with their scales, eight of the output matrix, bf16 cache.
    served = replace(shape, products="int8", matrix_bits=5.0, head_bits=8.0)
    cost = AnalyticCost(OURS, served)
    return [
        Result(f"Headrace: smollm2-135m, {batch} decodes at {context}", "ms", ms,
               1e3 * cost.seconds(decode(batch, context)))
        for context, figures in OUR_STEPS.items() for batch, ms in figures.items()
    ]  # fmt: skip


def cost_of(device: str, model: str, tensor: int, weights: str) -> AnalyticCost:
    """Without the host's share of a step. float8 means of the cache, too."""
    shape = load_shape(model)
    assert shape is not None
    found: ModelShape = shape.served_in(weights)
    if weights == "float8":
        found = replace(found, cache_bits=8.0)
    described = replace(load_device(device), step_overhead=0.0, sequence_overhead=0.0)
    return AnalyticCost(described, found, tensor=tensor)


def check_step(case: Case) -> Result:
    cost = cost_of(case.device, case.model, case.tensor, case.weights)
    load = case.load
    if case.source == VIDUR:  # no attention
        load = StepLoad(rows=load.rows)
    name = f"{case.source}: {case.model} on {case.tensor} x {case.device}, {case.what}"
    return Result(name, "ms", case.published, 1e3 * cost.seconds(load))


def check_throughput(case: Throughput) -> Result:
    cost = cost_of(case.device, case.model, case.tensor, case.weights)
    total = cost.seconds(prompts(case.batch, case.prompt))
    for done in range(1, case.output):
        total += cost.seconds(decode(case.batch, case.prompt + done))
    name = (
        f"{TENSORRT}: {case.model} on {case.tensor} x {case.device}, {case.batch} of"
        f" {case.prompt}:{case.output}"
    )
    return Result(name, "tok/s", case.published, case.batch * case.output / total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    steps = [check_step(case) for case in CASES]
    rates = [check_throughput(case) for case in THROUGHPUTS]
    ours = check_ours()
    results = [*steps, *rates, *ours]
    if options.json:
        print(json.dumps([asdict(r) | {"error": r.error} for r in results], indent=1))
        return
    for r in results:
        print(f"{r.name:<72}{r.published:>9.1f}{r.predicted:>9.1f} {r.unit:<6}{r.error:>+7.0%}")
    parts = (("steps on GPUs", steps), ("throughput of batches", rates), ("our steps", ours))
    for name, some in parts:
        errors = sorted(abs(r.error) for r in some)
        print(
            f"{name}: {len(errors)} figures, |error| {statistics.median(errors):.0%} at the median,"
            f" {errors[int(0.9 * (len(errors) - 1))]:.0%} at p90, {errors[-1]:.0%} at worst"
        )


if __name__ == "__main__":
    main()
