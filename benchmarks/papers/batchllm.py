"""BatchLLM: an offline batch in an order that keeps sharers of a prefix together, against arrival
order under least-recently-used reuse.

``python -m benchmarks.papers.batchllm`` runs batches whose prefixes do not all fit the cache.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.papers.claim import Claim, Figure, Finding, Trial, judge
from benchmarks.papers.hardware import gpus
from benchmarks.papers.live import LiveEngine
from benchmarks.papers.load import Ask, Ran
from benchmarks.papers.program import Options, main
from benchmarks.papers.setup import Setup

CLAIM = Claim(
    short="offline batches with shared prefixes, grouped against arrival order",
    paper="Zheng et al.: BatchLLM, arXiv:2412.03594",
    said="1.1x to 2x the throughput on micro-benchmarks and two industry workloads (abstract of the"
    " first version; the second and third say 1.3x to 10.8x against vLLM and SGLang, with a kernel"
    " for shared prefixes).",
    expected="1.1x to 2x",
    baseline="vLLM with prefix caching: first come, first served, least recently used reuse.",
)
DEGREES = (2, 4, 8, 16)  # sharers of a prefix
GROUPED = Setup(order="lookahead", prefix_cache=True, sequences=256)
ARRIVAL = Setup(prefix_cache=True, sequences=256)


def run(options: Options) -> Finding:
    trials = []
    if options.simulated:
        trials.append(simulated(options))
    if options.live:
        engine = LiveEngine(options.model)
        trials.append(live(engine, options))
        engine.close()
    return Finding("batchllm", CLAIM, tuple(trials), judge(trials), WHY)


def batch(
    groups: int, degree: int, prefix: int, own: tuple[int, int], output: tuple[int, int], seed: int
) -> list[Ask]:
    """All at once, sharers scattered at random among the others."""
    rng = np.random.default_rng([seed, 0x9E])
    asks = [
        Ask(
            0.0,
            prefix + int(rng.integers(own[0], own[1] + 1)),
            int(rng.integers(output[0], output[1] + 1)),
            group=f"group-{group}",
            shared=prefix,
        )
        for group in range(groups)
        for _ in range(degree)
    ]
    return [asks[i] for i in rng.permutation(len(asks))]


def simulated(options: Options) -> Trial:
    engine = gpus("llama-2-7b", "a100-80g", token_budget=1024)
    total = options.size(640, 160)
    figures: dict[str, list[float]] = {}
    for seed in options.seeds:
        for degree in DEGREES[1:2] if options.quick else DEGREES:
            asks = batch(total // degree, degree, 2000, (100, 300), (50, 150), seed)
            ours, theirs = (
                engine.run(asks, replace(setup, blocks=engine.blocks // options.size(1, 3)))
                for setup in (GROUPED, ARRIVAL)
            )
            figures.setdefault(f"{degree} sharers", []).append(theirs.seconds / ours.seconds)
            figures.setdefault(f"found {degree}", []).append(100 * found(ours))
            figures.setdefault(f"found by arrival {degree}", []).append(100 * found(theirs))
    degrees = [d for d in DEGREES if f"{d} sharers" in figures]
    middle = 4
    return Trial(
        engine.where,
        f"{total} requests at once in random order, a prefix of 2000 tokens for each group, 100 to"
        " 300 tokens of their own, outputs of 50 to 150 tokens, uniform",
        f"{GROUPED.describe()}; prefix cache, 1024 tokens a step",
        f"{ARRIVAL.describe()}; the same",
        (
            *(
                Figure(
                    f"throughput, {degree} sharers of a prefix",
                    tuple(figures[f"{degree} sharers"]),
                    1.1 if degree == middle else None,
                )
                for degree in degrees
            ),
            *(
                Figure(f"prompt tokens found in the cache, {name}, {middle} sharers",
                       tuple(figures[key]), unit=" %")
                for name, key in (("grouped", f"found {middle}"),
                                  ("by arrival", f"found by arrival {middle}"))
            ),
        ),
    )  # fmt: skip


def live(engine: LiveEngine, options: Options) -> Trial:
    groups, degree, prefix = options.size(16, 3), options.size(6, 2), options.size(384, 64)
    blocks = options.size(360, 60)  # a quarter of the prefixes fits
    figures: dict[str, list[float]] = {"time": [], "ours": [], "theirs": []}
    for seed in options.seeds:
        asks = batch(groups, degree, prefix, (8, 48), (4, 24), seed)
        ours, theirs = (
            engine.run(asks, replace(setup, blocks=blocks, sequences=16))
            for setup in (GROUPED, ARRIVAL)
        )
        figures["time"].append(theirs.seconds / ours.seconds)
        figures["ours"].append(100 * found(ours))
        figures["theirs"].append(100 * found(theirs))
    return Trial(
        engine.where,
        f"{groups * degree} requests at once in random order, {degree} sharers of a prefix of"
        f" {prefix} tokens, 8 to 48 of their own, outputs of 4 to 24 tokens; a cache of"
        f" {blocks} blocks of 16 tokens",
        f"{GROUPED.describe()}; prefix cache, 16 sequences",
        f"{ARRIVAL.describe()}; the same",
        (
            Figure("throughput", tuple(figures["time"]), 1.1),
            Figure("prompt tokens found, grouped", tuple(figures["ours"]), unit=" %"),
            Figure("prompt tokens found, by arrival", tuple(figures["theirs"]), unit=" %"),
        ),
    )


def found(ran: Ran) -> float:
    """The share of prompt tokens that the cache had."""
    return sum(a.cached for a in ran.done) / sum(a.ask.prompt for a in ran.done)


WHY = (
    "Within the paper's range where a prefix has few sharers. The more there are, the more"
    " often arrival order finds a prefix that another has just left in the cache, and with 16"
    " little is left to gain. BatchLLM's attention kernel for shared prefixes, which the"
    " larger figures of its later versions include, is no part of this."
)


if __name__ == "__main__":
    main(run, __doc__ or "")
