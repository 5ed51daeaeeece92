"""SARATHI: decode-maximal batches against prompts and decodes apart, and a pipeline's bubbles.

``python -m benchmarks.papers.sarathi`` takes step times of the paper's hardware from the analytic
cost model; decodes that ride along with a prompt's chunk cost what the chunk then takes longer.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from benchmarks.papers.claim import Claim, Figure, Finding, Trial, judge
from benchmarks.papers.hardware import gpus
from benchmarks.papers.load import Ask, make, zipf
from benchmarks.papers.pipeline import Pipeline, slice_load
from benchmarks.papers.program import Options, main
from benchmarks.papers.setup import Setup
from headrace.nouns.step_cost import StepCost, StepLoad
from headrace.simulation.analytic_cost import AnalyticCost

CLAIM = Claim(
    short="decode-maximal batching: decode throughput, pipeline bubbles",
    paper="Agrawal et al.: SARATHI, arXiv:2308.16369",
    said="LLaMA-33B on an A100: up to 4.25x the decode throughput and 1.25x end to end; GPT-3 with"
    " pipeline parallelism (8 stages of 8 devices, simulated there too): 6.29x less bubble time in"
    " the median of requests and 1.91x the throughput (abstract, section 5.3).",
    expected="4.25x decode, 1.25x end to end; 6.29x less bubbles, 1.91x throughput",
    baseline="batches of either prompts or decodes; in the pipeline iteration-level scheduling with"
    " whole prompts (Orca).",
)
CHUNK = 256
BATCHES = ((10, 1024), (5, 2048), (3, 3072))
"""Sequences and their tokens: the largest batches of LLaMA-33B in the paper (section 5.1)."""


def run(options: Options) -> Finding:
    trials = [one_device(options), pipeline(options)] if options.simulated else []
    return Finding("sarathi", CLAIM, tuple(trials), judge(trials), WHY)


def one_device(options: Options) -> Trial:
    engine = gpus("llama-33b", "a100-80g", token_budget=CHUNK)
    engine = replace(engine, blocks=max(engine.blocks, 1024))  # the paper's batches fit
    gains = [decode_gain(engine.cost, size, context) for size, context in BATCHES]
    ends = []
    for size, context in BATCHES:
        # Prompt and output in the proportion at which every decode finds a chunk to ride on.
        output = max(2, context * size // (CHUNK + size))
        asks = [Ask(0.0, context - output, output) for _ in range(options.size(60, 12))]
        setups = (
            Setup(token_budget=CHUNK, sequences=size),
            Setup(batching="prefill-first", sequences=size),
        )
        ours, theirs = (engine.run_clients(asks, size, setup).seconds for setup in setups)
        ends.append(theirs / ours)
    return Trial(
        engine.where,
        ", ".join(f"{size} sequences of {context}" for size, context in BATCHES)
        + " tokens; end to end a closed loop of as many clients, with the proportion of prompt to"
        " output at which chunks and decodes last equally long",
        f"one chunk a step, filled up to {CHUNK} tokens with decodes (stall-free)",
        "steps of prompts only and of decodes only (prefill-first)",
        (
            Figure("decode throughput, the best batch", (max(gains),), 4.25),
            Figure("decode throughput, over the batches", tuple(gains)),
            Figure("end-to-end throughput, the best batch", (max(ends),), 1.25),
            Figure("end-to-end throughput, over the batches", tuple(ends)),
        ),
    )


def decode_gain(cost: StepCost, size: int, context: int) -> float:
    """Time of a step of decodes alone over the time by which they make a chunk's step longer.

    The step stays at ``CHUNK`` tokens: what the chunk would have computed in the decodes' rows
    counts as part of their time.
    """
    decodes = StepLoad()
    for _ in range(size - 1):
        decodes += slice_load(context - 1, 1, True)
    start, length = context // 2, CHUNK - size + 1
    whole = cost.seconds(slice_load(start, CHUNK, False))
    together = cost.seconds(slice_load(start, length, False) + decodes)
    return cost.seconds(decodes) / (together - whole * length / CHUNK)


def pipeline(options: Options) -> Trial:
    stages, seats = 8, 27
    engine = gpus("gpt-3-175b", "a100-80g", tensor=8, stages=stages)
    assert isinstance(engine.cost, AnalyticCost)
    count = options.size(600, 400)
    figures: dict[str, list[float]] = {
        "bubbles": [],
        "time": [],
        "idle": [],
        "ours": [],
        "total": [],
    }
    for seed in options.seeds:
        lengths = zipf(1024, 4096, 0.4)
        drawn = make(count, lengths, lambda rng: 1, seed=seed)
        # Ten prompt tokens for each token of output, out of the drawn total.
        asks = [Ask(0.0, a.prompt * 10 // 11, max(1, a.prompt // 11)) for a in drawn]
        ours, theirs = (
            Pipeline(engine.cost.stage_seconds, stages, seats, chunk).run(asks)
            for chunk in (CHUNK, None)
        )
        figures["bubbles"].append(
            statistics.median(theirs.bubbles) / statistics.median(ours.bubbles)
        )
        figures["time"].append(theirs.seconds / ours.seconds)
        figures["total"].append(theirs.idle * theirs.seconds / (ours.idle * ours.seconds))
        figures["idle"].append(100 * theirs.idle)
        figures["ours"].append(100 * ours.idle)
    return Trial(
        engine.where,
        f"{count} requests of 1024 to 4096 tokens (Zipf, theta 0.4), ten of prompt to one of"
        f" output; {stages} micro-batches of {seats} sequences",
        f"iterations of {CHUNK} tokens: a micro-batch's decodes and a chunk",
        "iterations of a micro-batch's decodes and all prompts that have come, whole",
        (
            Figure("bubble time of the median request", tuple(figures["bubbles"]), 6.29),
            Figure("throughput", tuple(figures["time"]), 1.91),
            Figure("idle time of all stages, filling and draining too", tuple(figures["total"])),
            Figure("stages idle, baseline", tuple(figures["idle"]), unit=" %"),
            Figure("stages idle, ours", tuple(figures["ours"]), unit=" %"),
        ),
    )


WHY = (
    "Both effects are there and larger than in the paper, because the model is cleaner than a"
    " GPU: attention of a chunk and of the decodes beside it do not disturb each other, and"
    " products know no tiles that a few rows more or less fill or leave. In the pipeline,"
    " iterations with chunks are all equally long but for the contexts that attention reads,"
    " so the median request meets almost no bubble; what idle time is left is mostly the"
    " filling and draining of the pipeline. The gain in throughput is the paper's."
)

if __name__ == "__main__":
    main(run, __doc__ or "")
