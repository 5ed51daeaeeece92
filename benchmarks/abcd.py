"""The four reference workloads on an engine in this process.

``python -m benchmarks.abcd WORKLOADS.json`` prints, as medians over runs with a fresh prefix cache:

- A: one request at a time, TTFT in ms and decode tokens per second, (n - 1) / (end - first token)
- B: prompt tokens per second of a long prompt with one output token, by end-to-end time
- C, D: output tokens per second of all requests sent at once, by the time to the last token
- of each, the share of the machine's limit: the least time that its steps need by the measured
  ceilings (docs/metrics.md), over the time from the first request to the last output

``--against RESULTS.jsonl`` adds the ratios to other engines' results on the same workloads: JSON
lines with any of ``A_ttft_ms``, ``A_tok_s``, ``B_prompt_tok_s``, ``C.out_tok_s``, ``D.out_tok_s``.
Compare only what was measured in the same minutes on the same machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.in_process import Bench, add_engine_options, config_of, loaded, read_jobs, wall
from headrace.workloads.job import Job
from headrace.workloads.record import Record

# name of a figure: (what it is, its digits, whether more is better)
FIGURES = {
    "A_ttft_ms": ("A  time to first token, ms", 1, False),
    "A_tok_s": ("A  decode tokens/s, one stream", 1, True),
    "B_prompt_tok_s": ("B  prompt tokens/s", 0, True),
    "C_out_tok_s": ("C  output tokens/s, 64 at once", 1, True),
    "D_out_tok_s": ("D  output tokens/s, shared prefix", 1, True),
}
LIMIT = "_limit_percent"
Runs = dict[str, list[float]]


def measure(bench: Bench, workloads: dict[str, list[Job]], reps: int) -> tuple[Runs, Runs]:
    """(figures, cached tokens) of each run. Names other than A, B and D are measured like C."""
    figures: Runs = {}
    cached: Runs = {}
    for name, jobs in workloads.items():
        runs = one_by_one(bench, jobs, reps) if name in ("A", "B") else at_once(bench, jobs, reps)
        before = bench.reach.total
        for records in runs:
            reached, before = bench.reach.total.since(before), bench.reach.total
            if reached.limit:
                share = 100 * reached.limit / wall(records)
                figures.setdefault(name + LIMIT, []).append(share)
            for figure, value in figures_of(name, records).items():
                figures.setdefault(figure, []).append(value)
            cached.setdefault(name, []).append(float(sum(r.cached or 0 for r in records)))
            shown = {figure: round(values[-1], 2) for figure, values in figures.items()}
            print(f"{name}: {json.dumps(shown)}", file=sys.stderr)
    return figures, cached


def one_by_one(bench: Bench, jobs: Sequence[Job], reps: int) -> Iterator[list[Record]]:
    """Runs of one request each."""
    for i in range(reps):
        yield bench.run([jobs[i % len(jobs)]])


def at_once(bench: Bench, jobs: Sequence[Job], reps: int) -> Iterator[list[Record]]:
    """Runs of all requests together."""
    for _ in range(reps):
        yield bench.run(jobs)


def figures_of(name: str, records: Sequence[Record]) -> dict[str, float]:
    """The figures of one run of a workload."""
    first = records[0]
    if name == "A":
        assert first.ttft is not None
        assert first.tpot is not None
        return {"A_ttft_ms": 1e3 * first.ttft, "A_tok_s": 1 / first.tpot}
    if name == "B":
        return {"B_prompt_tok_s": first.prompt_tokens / first.e2e}
    return {f"{name}_out_tok_s": sum(r.output_tokens for r in records) / wall(records)}


def read_results(paths: Sequence[Path]) -> list[tuple[str, dict[str, float]]]:
    """(name, figures) of each line of other engines' results."""
    found = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            result: dict[str, Any] = json.loads(line)
            flat = result | {
                f"{name}_out_tok_s": result[name]["out_tok_s"]
                for name in "CD"
                if isinstance(result.get(name), dict)
            }
            name = result.get("gguf") or result.get("model") or path.stem
            detail = [
                f"{key} {result[key]}"
                for key in ("np", "mbt", "dtype", "weights")
                if result.get(key)
            ]
            label = f"{path.stem} {name} {', '.join(detail)}".strip()
            found.append((label, {k: float(flat[k]) for k in FIGURES if flat.get(k)}))
    return found


def print_table(medians: dict[str, float], others: list[tuple[str, dict[str, float]]]) -> None:
    """The medians; below each, the ratio to each other engine (above 1: ours is better)."""
    for figure, ours in medians.items():
        text, digits, more_is_better = FIGURES.get(figure, (figure, 1, True))
        if figure.endswith(LIMIT):
            text = f"{figure.removesuffix(LIMIT)}  share of the machine's limit, %"
        print(f"{text:<40}{ours:>12,.{digits}f}")
        for name, figures in others:
            if (theirs := figures.get(figure)) is not None:
                ratio = ours / theirs if more_is_better else theirs / ours
                print(f"    {name[:60]:<62}{theirs:>10,.{digits}f}{ratio:>8.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("workloads", type=Path, help="JSON file of named lists of prompts")
    parser.add_argument("--only", default="ABCD", help="which workloads (default ABCD)")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--against", type=Path, action="append", default=[], metavar="JSONL")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_engine_options(parser)
    options = parser.parse_args()
    jobs = read_jobs(options.workloads, options.only)
    others = read_results(options.against)
    with loaded(config_of(options)) as bench:
        bench.warm_up()
        figures, cached = measure(bench, jobs, options.reps)
        model = bench.service.model
    medians = {figure: statistics.median(runs) for figure, runs in figures.items()}
    if options.json:
        found = {"model": model.name, "weights": model.weights, "reps": options.reps,
                 "medians": medians, "runs": figures, "cached_tokens": cached}  # fmt: skip
        print(json.dumps(found, indent=1))
        return
    print(f"{model.name}, {model.weights}, medians of {options.reps} runs")
    print_table(medians, others)


if __name__ == "__main__":
    main()
