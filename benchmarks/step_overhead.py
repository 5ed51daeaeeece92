"""What a step costs beside the model: planning, layout, sampling, committing, delivering.

``python -m benchmarks.step_overhead`` runs the real scheduler, layout, sampler and delivery around
a model that costs nothing: it returns the same random logits, of a real vocabulary's size, for
every step. Per batch size it prints how many microseconds each part of a decoding step takes, and
the sum as a share of the step time that ``--step-ms`` gives for it.

The figures are medians over the steps; on a busy machine look at ``--statistic min``. Logits are in
the processor's caches as they are after a real output matrix; the rest of a real step's memory
traffic, which pushes Python's objects out of them, is imitated by reading ``--traffic-mb`` of other
memory before each step. It more than doubles what a step of one sequence costs.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from headrace.engine.build import policies
from headrace.engine.config import EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.output import Output
from headrace.execution import local as local_module
from headrace.execution.build import set_threads
from headrace.execution.kv_cache import KVCache
from headrace.execution.local import LocalExecutor
from headrace.execution.machine import detect_machine
from headrace.kernels.layout import Layout
from headrace.kernels.operators import AttentionShape
from headrace.memory.sequence_memory import SequenceMemory
from headrace.models.config import ModelConfig, RopeConfig
from headrace.nouns.clock import WallClock
from headrace.nouns.request import Request
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import Sequence
from headrace.sampling.detokenizer import Detokenizer
from headrace.sampling.sampler import Sampler
from headrace.scheduling.limits import Limits
from headrace.scheduling.scheduler import Scheduler

local: Any = local_module
VOCABULARY = 49152
BLOCK_SIZE = 16
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.0},
    "top-p": {"temperature": 0.8, "top_p": 0.95},
    "top-k": {"temperature": 0.8, "top_k": 40, "top_p": 0.95},
    "log-probabilities": {"temperature": 0.0, "logprobs": 5},
    "penalties": {"temperature": 0.8, "frequency_penalty": 0.3},
}


STATISTICS: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "min": min}


@dataclass(frozen=True, slots=True)
class Overhead:
    """Microseconds that the parts of a step of ``batch`` decodes take."""

    mode: str
    batch: int
    steps: int
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


class FreeModel:
    """Answers every step with the same logits, at once."""

    device = torch.device("cpu")
    cache_dtype = torch.float32
    max_context = 1 << 20
    nbytes = 0
    shape = AttentionShape(1, 1, 2)

    def __init__(self, rows: int, traffic: int) -> None:
        self.config = ModelConfig(
            architecture="llama", hidden_size=2, num_layers=1, num_heads=1, num_kv_heads=1,
            head_dim=2, intermediate_size=1, vocab_size=VOCABULARY, max_context=self.max_context,
            rope=RopeConfig(),
        )  # fmt: skip
        self.logits = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(0))
        self.logits *= 3.0
        self._other = np.ones(traffic // 8, dtype=np.int64)

    def cache_width(self, block_size: int) -> int:
        return 2 * block_size

    def padded_rows(self, rows: int) -> int:
        return rows

    def forward(self, layout: Layout, cache: object) -> torch.Tensor:
        self._other.sum()
        logits = self.logits[: len(layout.sampled)]
        np.max(logits.numpy())  # as if just written
        return logits


class Stopwatch:
    """Sums the time of wrapped calls by name, a list of sums per step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = [{}]

    def wrap(self, name: str, call: Callable[..., Any], inside: str | None = None) -> Any:
        """``call``, timed as ``name``; its time is taken from that of ``inside``."""

        @functools.wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                spent = time.perf_counter() - start
                sums = self.steps[-1]
                sums[name] = sums.get(name, 0.0) + spent
                if inside is not None:
                    sums[inside] = sums.get(inside, 0.0) - spent

        return timed

    def summary(self, last: int, statistic: Callable[[list[float]], float]) -> dict[str, float]:
        """Microseconds of each name, over the last steps."""
        steps = self.steps[-last:]
        names = dict.fromkeys(name for step in steps for name in step)
        return {n: 1e6 * statistic([step.get(n, 0.0) for step in steps]) for n in names}


def build_engine(batch: int, context: int, steps: int, traffic: int) -> Engine:
    """An engine around the free model, with room for ``batch`` sequences to the end."""
    blocks = (batch + 1) * (-(-(context + steps) // BLOCK_SIZE) + 1)
    model = FreeModel(batch, traffic)
    cache = KVCache(1, model.shape, blocks, BLOCK_SIZE, torch.float32)
    executor = LocalExecutor(model, cache, Sampler(VOCABULARY))
    config = EngineConfig(max_sequences=batch)
    limits = Limits(max(1024, batch), max(4096, batch), batch)
    scheduler = Scheduler(
        SequenceMemory(blocks, BLOCK_SIZE), policies(config), limits, lambda event: None
    )
    pieces = [b" " + str(i).encode() for i in range(VOCABULARY)]

    def new_output(seq: Sequence) -> Output:
        return Output(seq, Detokenizer(pieces.__getitem__, lambda token: token < 3))

    return Engine(scheduler, executor, WallClock(), new_output)


def watch(engine: Engine) -> Stopwatch:
    """Times the parts of the engine's steps."""
    watch, executor = Stopwatch(), engine.executor
    assert isinstance(executor, LocalExecutor)
    engine.step = watch.wrap("step loop", engine.step)  # type: ignore[method-assign]
    for owner, method, name, inside in (
        (engine.scheduler, "plan", "plan", "step loop"),
        (engine.scheduler, "commit", "commit", "step loop"),
        (executor, "submit", "submit", "step loop"),
        (executor, "collect", "collect", "step loop"),
        (executor.cache, "clear", "clear blocks", "collect"),
        (executor.transformer, "forward", "model", "collect"),
        (executor.sampler, "sample", "sample", "collect"),
        (engine, "_deliver", "deliver", "step loop"),
    ):
        setattr(owner, method, watch.wrap(name, getattr(owner, method), inside))
    local.build_batch = watch.wrap("layout", local.build_batch, "submit")
    return watch


def measure(
    mode: str, batch: int, context: int, steps: int, traffic: int,
    statistic: Callable[[list[float]], float],
) -> Overhead:  # fmt: skip
    """Decode ``batch`` sequences from ``context`` tokens on and time ``steps`` steps."""
    build_batch = local.build_batch
    engine = build_engine(batch, context, steps + 64, traffic)
    try:
        stopwatch = watch(engine)
        params = SamplingParams(**MODES[mode], max_tokens=steps + 48, ignore_eos=True)
        for i in range(batch):
            prompt = tuple((i * 7919 + j * 31) % VOCABULARY for j in range(context))
            engine.add(
                Request(id=str(i), prompt=prompt, max_tokens=steps + 48, params=params, seed=i)
            )
        while any(seq.output_len == 0 for seq in engine._outputs):
            engine.step()
        for _ in range(8 + steps):
            stopwatch.steps.append({})
            engine.step()
    finally:
        local.build_batch = build_batch
    parts = stopwatch.summary(steps, statistic)
    del parts["model"]
    return Overhead(mode, batch, steps, parts)


def print_table(found: list[Overhead], step_ms: dict[int, float]) -> None:
    """A column per measurement."""
    print(f"{'us a step':<16}" + "".join(f"{o.mode[:9] + ' ' + str(o.batch):>14}" for o in found))
    for name in dict.fromkeys(name for o in found for name in o.parts):
        print(f"{name:<16}" + "".join(f"{o.parts.get(name, 0.0):>14.1f}" for o in found))
    print(f"{'sum':<16}" + "".join(f"{o.total:>14.1f}" for o in found))
    shares = [o.total / (o.total + 1e3 * step_ms[o.batch]) for o in found if o.batch in step_ms]
    if shares:
        print(f"{'share':<16}" + "".join(f"{100 * share:>12.2f} %" for share in shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--batches", default="1,32,64", help="batch sizes")
    parser.add_argument(
        "--step-ms", default="3,25,50", help="the model's own time for each of them"
    )
    parser.add_argument("--modes", default="greedy,sampled", help=f"of {', '.join(MODES)}, or all")
    parser.add_argument("--context", type=int, default=300, help="tokens of each sequence")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--traffic-mb", type=int, default=64)
    parser.add_argument("--statistic", choices=STATISTICS, default="median")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    set_threads(None, detect_machine())
    batches = [int(batch) for batch in options.batches.split(",")]
    times = dict(zip(batches, map(float, options.step_ms.split(",")), strict=True))
    modes = list(MODES) if options.modes == "all" else options.modes.split(",")
    traffic = options.traffic_mb << 20
    found = [
        measure(mode, batch, options.context, options.steps, traffic, STATISTICS[options.statistic])
        for mode in modes
        for batch in batches
    ]
    if options.json:
        print(json.dumps([asdict(o) | {"total": o.total} for o in found], indent=1))
        return
    for first in range(0, len(found), len(batches)):
        print_table(found[first : first + len(batches)], times)
        print()


if __name__ == "__main__":
    main()
