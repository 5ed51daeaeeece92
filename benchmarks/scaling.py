"""Cost per output token against batch and context, with the machine's ceiling drawn in.

``python -m benchmarks.scaling --out scaling`` times decoding steps of the executor alone, batches
of 1, 2, 4 ... 128 sequences, each at a context of 128 ... 8192 tokens, and writes ``scaling.json``,
``scaling.png`` and ``scaling.svg``. The state of the sequences is copies of one real block, so that
a step reads as much memory as it would after prompts of that length. Points whose state does not
fit the cache are left out and named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.in_process import WEIGHTS
from benchmarks.scaling_plot import draw
from headrace.cli.options import parse_size
from headrace.engine.config import DEFAULT_MODEL
from headrace.environment import limit_spinning
from headrace.nouns.errors import HeadraceError
from headrace.nouns.request import Request
from headrace.nouns.sampling_params import SamplingParams
from headrace.nouns.sequence import Sequence as TokenSequence
from headrace.nouns.step import Slice, Step, StepResult, Work

if TYPE_CHECKING:
    from headrace.execution.build import BuiltExecutor
    from headrace.execution.local import LocalExecutor
    from headrace.execution.peaks import Peaks
    from headrace.models.loader import ModelFiles

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192)
BLOCK = 16
COPIED = 128  # blocks a step, so that little memory is needed besides
LEAST_STEPS, MOST_STEPS = 3, 50


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the steps of one point: their median and the fastest; what they had to do."""

    batch: int
    context: int
    steps: int
    seconds: float
    fastest: float
    work: Work


class Decoding:
    """Sequences whose state is in an executor's cache, to be decoded a token further at will."""

    def __init__(self, executor: LocalExecutor, blocks: int) -> None:
        """Computes one block of tokens and copies its state to the others, ``blocks`` in all or as
        many as the cache has."""
        self._executor = executor
        self.blocks = min(blocks, executor.cache.num_blocks)
        vocabulary = executor.transformer.config.vocab_size
        self._tokens = [(i * 7919 + 100) % vocabulary for i in range(BLOCK)]
        first = self._sequence("first", BLOCK, [0])
        self._run(Slice(first, 0, BLOCK, samples=False))
        others = range(1, self.blocks)
        for start in range(0, len(others), COPIED):
            moves = tuple((0, block) for block in others[start : start + COPIED])
            self._run(Slice(first, 0, BLOCK, samples=False), copies=moves)

    def fits(self, batch: int, context: int) -> bool:
        return batch * blocks_of(context) <= self.blocks

    def time(self, batch: int, context: int, seconds: float) -> Timing:
        """Time steps of ``batch`` sequences whose new tokens see ``context`` positions, for about
        ``seconds``. Raises HeadraceError when a step fails."""
        held = blocks_of(context)
        sequences = [
            self._sequence(f"{i}", context, range(i * held, (i + 1) * held)) for i in range(batch)
        ]
        slices = [Slice(s, context - 1, 1, samples=True) for s in sequences]
        work = self._run(*slices).work  # and every shape has been met
        assert work is not None, "the executor was given the machine's limits"
        elapsed: list[float] = []
        end = time.perf_counter() + seconds
        while len(elapsed) < LEAST_STEPS or (
            len(elapsed) < MOST_STEPS and time.perf_counter() < end
        ):
            elapsed.append(self._run(*slices).elapsed)
        for sequence in sequences:
            self._executor.forget(sequence)
        return Timing(batch, context, len(elapsed), statistics.median(elapsed), min(elapsed), work)

    def _sequence(self, id: str, length: int, blocks: Sequence[int]) -> TokenSequence:
        prompt = tuple(self._tokens * blocks_of(length))[:length]
        params = SamplingParams(temperature=0.0)
        made = TokenSequence.of(Request(id=id, prompt=prompt, max_tokens=1, params=params), 0)
        made.blocks = list(blocks)
        return made

    def _run(self, *slices: Slice, copies: tuple[tuple[int, int], ...] = ()) -> StepResult:
        self._executor.submit(Step(0, slices, copies))
        result = self._executor.collect()
        if result.error is not None:
            raise HeadraceError(f"a step failed: {result.error}")
        return result


def blocks_of(context: int) -> int:
    return -(-context // BLOCK)


def point(timing: Timing, limit: float) -> dict[str, float]:
    """What the JSON file tells of a timing; ``limit`` is the least seconds of its step."""
    return {
        "batch": timing.batch,
        "context": timing.context,
        "steps": timing.steps,
        "ms_per_step": 1e3 * timing.seconds,
        "fastest_ms_per_step": 1e3 * timing.fastest,
        "ms_per_token": 1e3 * timing.seconds / timing.batch,
        "limit_ms_per_token": 1e3 * limit / timing.batch,
        "limit_share": limit / timing.seconds,
        "operations": timing.work.operations,
        "bytes": timing.work.bytes,
    }


def measure(
    decoding: Decoding, batches: Sequence[int], contexts: Sequence[int], seconds: float
) -> Iterator[Timing]:
    """Every point that fits, one context after the other."""
    for context in contexts:
        for batch in batches:
            if decoding.fits(batch, context):
                timing = decoding.time(batch, context, seconds)
                print(
                    f"batch {batch}, context {context}: {1e3 * timing.seconds:.2f} ms a step,"
                    f" {timing.work.seconds / timing.seconds:.0%} of the limit",
                    file=sys.stderr,
                )
                yield timing


def bounded(timings: Sequence[Timing], built: BuiltExecutor, peaks: Peaks) -> list[dict[str, Any]]:
    """The points, with bounds of ``peaks``, which may be better than those of the run."""
    from headrace.execution.roofline import Roofline

    known = built.executor.roofline
    assert known is not None
    roofline = Roofline(built.executor.transformer.config, known.format, peaks)
    return [point(t, t.batch / roofline.decode(t.batch, t.context)) for t in timings]


def built_for(
    options: argparse.Namespace, batches: Sequence[int], contexts: Sequence[int]
) -> tuple[ModelFiles, BuiltExecutor]:
    """The model's files, and an executor whose cache holds the largest point, or what may be."""
    from headrace.execution.build import build_executor
    from headrace.execution.machine import detect_machine
    from headrace.models.loader import open_model
    from headrace.models.source import resolve

    files = open_model(resolve(options.model))
    room = detect_machine().memory_available // 3
    most = parse_size(options.cache) if options.cache else room
    blocks = 2 + max(batches) * blocks_of(max(contexts))
    float32 = files.config.cache_values_per_token() * BLOCK * 4
    built = build_executor(
        files,
        weights=options.weights,
        block_size=BLOCK,
        cache_bytes=min(most, blocks * float32),
        max_context=min(max(contexts), files.config.max_context),
        max_sequences=max(batches),
        threads=options.threads,
        report=lambda line: print(line, file=sys.stderr),
    )
    return files, built


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Everything measured, as the JSON file holds it."""
    from headrace.execution.build import measure_roofline
    from headrace.execution.machine import detect_machine
    from headrace.execution.peaks import Peaks, measure_peaks, remember
    from headrace.execution.tuning import PEAKS

    batches, contexts = numbers(options.batches), numbers(options.contexts)
    files, built = built_for(options, batches, contexts)
    contexts = [context for context in contexts if context <= built.max_context]
    kept = built.machine_tuning
    load, save = partial(kept.get, PEAKS), partial(kept.put, PEAKS)
    line = measure_roofline(built, files, options.threads, load, save)
    print(line, file=sys.stderr)
    decoding = Decoding(built.executor, max(batches) * blocks_of(max(contexts)))
    timings = list(measure(decoding, batches, contexts, options.seconds))
    # Whatever else runs makes the ceilings look lower: before and after, the best counts.
    machine = detect_machine()
    threads = options.threads or machine.threads
    peaks = remember(measure_peaks(machine, threads), Peaks.from_json(load()), save)
    assert peaks is not None, "measured when the executor was told its limits"
    return {
        "model": files.name,
        "weights": built.weights,
        "threads": threads,
        "processor": machine.processor,
        "peaks": peaks.to_json(),
        "points": bounded(timings, built, peaks),
        "left_out": [
            {"batch": batch, "context": context}
            for context in contexts
            for batch in batches
            if not decoding.fits(batch, context)
        ],
    }


def numbers(text: str) -> list[int]:
    """Of a list such as 1,2,4; ends the program where it is none."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise SystemExit(f"{text!r} is no list of numbers above 0, such as 1,2,4")
    return sorted({int(part) for part in parts})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("scaling"), metavar="PATH",
                        help="where PATH.json, PATH.png and PATH.svg go")  # fmt: skip
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--contexts", default=",".join(map(str, CONTEXTS)))
    parser.add_argument("--seconds", type=float, default=1.0, help="of each point")
    parser.add_argument("--cache", help="most memory for the cache; a third of what is free")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--weights", choices=WEIGHTS, default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; all cores by default")
    options = parser.parse_args()
    if not options.out.absolute().parent.is_dir():
        raise SystemExit(f"{options.out} cannot be written: its directory does not exist")
    limit_spinning()
    try:
        found = report(options)
    except HeadraceError as error:
        raise SystemExit(str(error)) from error
    options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, options.out)
    for left in found["left_out"]:
        print(f"left out, its state needs more cache: {left}", file=sys.stderr)


if __name__ == "__main__":
    main()
