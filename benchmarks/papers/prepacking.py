"""Prepacking: prompts packed behind each other against prompts padded to the longest of a batch.

``python -m benchmarks.papers.prepacking`` prefills batches of 64 prompts on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.papers.claim import Claim, Figure, Finding, Trial, judge
from benchmarks.papers.live import LiveEngine
from benchmarks.papers.load import Ask, fixed, lognormal, make
from benchmarks.papers.program import Options, main
from benchmarks.papers.setup import Setup

CLAIM = Claim(
    short="packed against padded prefill",
    paper="Zhao, Israel, Van den Broeck, Grover: Prepacking, arXiv:2404.09529",
    said="Prefilling batches of 64 MMLU prompts (Llama 1B, A6000) takes 0.441 s packed, 2.299 s"
    " padded, and 0.658 s padded in batches of similar lengths (the profile in the README of the"
    " paper's repository): 5.2x and 1.5x.",
    expected="5.2x; 1.5x against length-ordered",
    baseline="Hugging Face's padded batches, of prompts at random and in the order of length.",
)
BATCH = 64
PACKED = Setup(batching="prefill-first", sequences=BATCH)
PADDED = Setup(batching="static", sequences=BATCH)
STALL_FREE = Setup(sequences=BATCH)


def run(options: Options) -> Finding:
    trials = []
    if options.live:
        engine = LiveEngine(options.model)
        trials.append(trial(engine, options))
        engine.close()
    return Finding("prepacking", CLAIM, tuple(trials), judge(trials), why(trials))


def trial(engine: LiveEngine, options: Options) -> Trial:
    batches, size = options.size(2, 1), options.size(BATCH, 8)
    prompt = lognormal(90, 250, high=min(1000, engine.context - 2))
    against: dict[str, list[float]] = {"padded": [], "ordered": [], "rows": [], "budget": []}
    for seed in options.seeds:
        asks = make(batches * size, prompt, fixed(1), seed=seed)
        ordered = sorted(asks, key=lambda ask: ask.prompt)
        packed = prefill(engine, asks, size, PACKED)
        against["padded"].append(prefill(engine, asks, size, PADDED) / packed)
        against["ordered"].append(prefill(engine, ordered, size, PADDED) / packed)
        against["budget"].append(prefill(engine, asks, size, STALL_FREE) / packed)
        against["rows"].append(padded_rows(asks, size) / sum(ask.prompt for ask in asks))
    return Trial(
        engine.where,
        f"{batches} batches of {size} prompts, log-normal lengths (median 90, 90th percentile 250,"
        " at most 1000: skewed as questions with and without a passage are), one output token",
        "steps of whole prompts, packed",
        "the same steps with every prompt padded to the longest of its batch (padding rows go"
        " through all products and attend to nothing)",
        (
            Figure("time, padded batches of prompts at random", tuple(against["padded"]), 5.2),
            Figure("time, padded batches of similar lengths", tuple(against["ordered"]), 1.5),
            Figure("rows, padded at random over packed", tuple(against["rows"])),
            Figure("time, stall-free at its own budget", tuple(against["budget"])),
        ),
    )


def prefill(engine: LiveEngine, asks: Sequence[Ask], size: int, setup: Setup) -> float:
    """Seconds until all batches have their first tokens, one batch after the other."""
    return sum(
        engine.run(asks[first : first + size], setup).seconds for first in range(0, len(asks), size)
    )


def padded_rows(asks: Sequence[Ask], size: int) -> int:
    batches = [asks[first : first + size] for first in range(0, len(asks), size)]
    return sum(len(batch) * max(ask.prompt for ask in batch) for batch in batches)


def why(trials: Sequence[Trial]) -> str:
    if not trials:
        return "Nothing was run: this program has live trials only."
    rows = trials[0].figures[2]
    return (
        "Steps of Headrace are packed by construction: rows of different prompts stand behind each"
        f" other. The time follows the rows, and padding computes {rows.median:.1f} times as many"
        " here. Padding costs a little less than its rows because the baseline's padding rows"
        " skip attention and are not stored, which Hugging Face's are; the ratio depends on the"
        " spread of the lengths more than on anything else."
    )


if __name__ == "__main__":
    main(run, __doc__ or "")
